"""A target: made-up inputs and a check that must hold for each, within time and memory."""

from __future__ import annotations

import faulthandler
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

#: Seconds of CPU for one input; the honest ones take milliseconds.
MOST_SECONDS = 5.0
#: Seconds after which one that waits, or never ends, ends everything and shows where it is.
HANG = 120
#: MiB by which one input may raise the peak of this process's memory.
MOST_MEMORY = 256


@dataclass(frozen=True)
class Target:
    """`check` raises for one of the `inputs` that does harm; each counts for `weight` inputs."""

    name: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any], None]
    weight: int = 1  # values within one input that the check looks at one by one
    share: float = 1.0  # of the inputs of a run over all targets: less where one takes long


@dataclass(frozen=True)
class Outcome:
    """What so many inputs came to; `finding` is empty where none did harm."""

    target: str
    inputs: int
    seconds: float
    peak: int  # MiB of memory
    finding: str = ""


@cache
def scratch(name: str) -> Path:
    """A folder of this name for the files of a target; it goes when this process ends."""
    folder = Path(_root().name) / name
    folder.mkdir()
    return folder


@cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="evalhpc-fuzz-")


def run(target: Target, inputs: int, number: int) -> Outcome:
    """Check so many inputs, the same ones for the same number."""
    counted = 0

    def bounded(value: Any) -> None:
        nonlocal counted
        counted += 1
        with _bounds():
            target.check(value)

    limits = settings(
        max_examples=max(1, inputs // target.weight),
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    test = limits(seed(number)(given(target.inputs)(bounded)))
    started, finding = time.monotonic(), ""
    try:
        test()
    except Exception as error:
        finding = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    seconds = time.monotonic() - started
    return Outcome(target.name, counted * target.weight, seconds, _peak(), finding)


@contextmanager
def _bounds() -> Iterator[None]:
    """Raise where what is inside takes too much time or memory."""
    memory, cpu = _peak(), time.process_time()
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds, grown = time.process_time() - cpu, _peak() - memory
    assert seconds < MOST_SECONDS, f"one input took {seconds:.1f} s"
    assert grown < MOST_MEMORY, f"one input took {grown} MiB of memory"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
