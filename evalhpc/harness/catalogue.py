"""The catalogue: which harnesses and tasks we know.

A benchmark that is not in the catalogue is named `HARNESS/TASK`, e.g. `lm-eval/arc_easy`.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import TypeVar

import yaml

from evalhpc.errors import UsageError
from evalhpc.models.base import Frozen
from evalhpc.models.runspec import HarnessSpec
from evalhpc.models.suite import Benchmark, Params

_FOLDER = Path(__file__).resolve().parent / "catalogue"
_Entry = TypeVar("_Entry", bound=Frozen)


class DataFile(Frozen):
    """JSON lines that an installed Python package ships."""

    package: str
    file: str  # relative to the package's folder


class HarnessEntry(Frozen):
    """One harness: what a run needs of it, and how a person gets it."""

    description: str
    install: str
    spec: HarnessSpec


class TaskEntry(Frozen):
    """One known task. With a `definition` the run brings task and data along itself."""

    description: str
    harness: str
    task: str  # the harness's own name for it
    params: Params = Params()
    definition: str | None = None  # file under tasks/
    data: DataFile | None = None  # None: the harness loads it from its data set cache


def list_harnesses() -> dict[str, HarnessEntry]:
    """Harness name → entry, in the catalogue's order."""
    return dict(_harnesses())


def list_tasks() -> dict[str, TaskEntry]:
    """Task name → entry, in the catalogue's order: first those that bring their data along."""
    return dict(_tasks())


def harness_spec(name: str) -> HarnessSpec:
    """What a run needs to know of the harness `name`; raises UsageError for an unknown one."""
    return _known("harness", name, _harnesses()).spec


def lookup_task(name: str) -> Benchmark:
    """The benchmark that `name` stands for: a catalogue task, or `HARNESS/TASK` for any other.

    Raises UsageError for an unknown task or harness, naming the nearest known one.
    """
    harness, slash, task = name.partition("/")
    if not slash:
        entry = _known("task", name, _tasks())
        return Benchmark(name=name, harness=entry.harness, task=entry.task, params=entry.params)
    harness_spec(harness)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", task).strip("_.-")
    if not plain:
        raise UsageError(f"{name!r} names no task", hint="evalhpc ls tasks")
    return Benchmark(name=plain[:100], harness=harness, task=task)


def definition_path(entry: TaskEntry) -> Path | None:
    """The task definition that we ship for `entry`, if any."""
    return None if entry.definition is None else _FOLDER / "tasks" / entry.definition


def brings_data(benchmark: Benchmark) -> bool:
    """Whether a run brings the benchmark's task and data along, so that nothing is loaded."""
    return any(
        entry.definition is not None
        and entry.data is not None
        and (entry.harness, entry.task) == (benchmark.harness, benchmark.task)
        for entry in _tasks().values()
    )


def _known(kind: str, name: str, entries: dict[str, _Entry]) -> _Entry:
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name, entries, n=1)
    hint = f"evalhpc ls {'harnesses' if kind == 'harness' else 'tasks'}"
    if kind == "task":
        hint += "; a task outside the catalogue is named HARNESS/TASK, e.g. lm-eval/arc_easy"
    raise UsageError(
        f"unknown {kind} {name!r}" + (f"; perhaps you meant {near[0]!r}?" if near else ""),
        hint=hint,
    )


@cache
def _harnesses() -> dict[str, HarnessEntry]:
    return _load("harnesses.yaml", HarnessEntry)


@cache
def _tasks() -> dict[str, TaskEntry]:
    return _load("tasks.yaml", TaskEntry)


def _load(name: str, model: type[_Entry]) -> dict[str, _Entry]:
    data = yaml.safe_load((_FOLDER / name).read_text(encoding="utf-8"))
    return {key: model.model_validate(value) for key, value in data.items()}
