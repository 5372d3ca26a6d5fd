"""What a benchmark is: contestants measured in turn, a figure, a goal, and whether it is met."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TypeVar

import benchmarks

T = TypeVar("T")
ROUNDS = 5
#: Modules of this package that are not benchmarks.
_FRAME = frozenset({"__main__", "clients", "exchanges", "harness", "servers", "soak"})


@dataclass(frozen=True)
class Result:
    """One figure of ours: the median of its runs, with the rivals' medians from the same runs."""

    name: str
    figure: float
    unit: str
    goal: float | None = None
    higher_is_better: bool = False
    rivals: Mapping[str, float | None] = field(default_factory=dict)  # None: not installed
    runs: int = ROUNDS
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        return self.figure >= self.goal if self.higher_is_better else self.figure <= self.goal

    def as_dict(self) -> dict[str, Any]:
        """All fields and `met`, for JSON."""
        return {**asdict(self), "met": self.met}


def interleaved(
    contestants: Mapping[str, Callable[[], T]], rounds: int = ROUNDS
) -> dict[str, list[T]]:
    """Run each contestant once a round, so that a noisy minute hits all alike."""
    runs: dict[str, list[T]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            runs[name].append(measure())
    return runs


def medians(runs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each contestant's runs."""
    return {name: median(values) for name, values in runs.items()}


def installed(module: str) -> bool:
    """Whether a rival is there to be measured."""
    return importlib.util.find_spec(module) is not None


def names() -> list[str]:
    """Every benchmark: the modules of this package that have a `run`."""
    return sorted(
        module.name for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name not in _FRAME
    )  # fmt: skip


def load(name: str) -> Callable[[], list[Result]]:
    """The `run` of a benchmark."""
    run: Callable[[], list[Result]] = importlib.import_module(f"benchmarks.{name}").run
    return run
