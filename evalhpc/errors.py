"""What can go wrong, as a tree; each class has one exit code.

    EvalhpcError                 1   anything else of ours
    ├── UsageError               2   unknown site, task, option or key; a bad value
    ├── ConfigError              3   a site or suite file that does not validate
    ├── ModelError               4   a checkpoint that is missing, half-written or of unknown format
    ├── ClusterError             5   Slurm refused, or cannot be reached
    ├── StorageError             6   the run directory cannot be written, or is not ours
    ├── EndpointError            7   a model server that refuses, denies, dies or never gets ready
    ├── HarnessError             8   the evaluation harness failed
    ├── IncompleteError          9   answers are missing: there is no score
    ├── IntegrityError          10   data that does not match what the run recorded
    ├── PartialError            11   there are scores, but some requests failed
    ├── BudgetError             12   more GPU-hours than the run may use
    └── FutileError             13   not begun: what came before it all failed alike

The text of an error says what happened, the likely cause, and the next command.
`docs/errors.md` is the user's copy of the table.
"""

from __future__ import annotations

from typing import ClassVar


class EvalhpcError(Exception):
    """The root: what happened, why that usually is, and what to run next."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, cause: str = "", hint: str = "", transient: bool = False
    ) -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.hint = hint
        self.transient = transient

    def __str__(self) -> str:
        lines = [self.what]
        if self.cause:
            lines.append(f"likely cause: {self.cause}")
        if self.hint:
            lines.append(f"next: {self.hint}")
        return "\n".join(lines)


class UsageError(EvalhpcError):
    """The command line names something that does not exist or does not fit."""

    exit_code = 2


class ConfigError(EvalhpcError):
    """A site, suite or run file that cannot be read or does not validate."""

    exit_code = 3


class ModelError(EvalhpcError):
    """A checkpoint that is missing, empty, half-written or of no known format."""

    exit_code = 4


class ClusterError(EvalhpcError):
    """Slurm refused a request, or could not be reached."""

    exit_code = 5


class StorageError(EvalhpcError):
    """The run directory cannot be created, written or read."""

    exit_code = 6


class EndpointError(EvalhpcError):
    """A model server that refuses, denies access, dies or never becomes ready."""

    exit_code = 7


class HarnessError(EvalhpcError):
    """The evaluation harness exited non-zero or wrote no results."""

    exit_code = 8


class IncompleteError(EvalhpcError):
    """Some answers are missing, so there is no score."""

    exit_code = 9


class IntegrityError(EvalhpcError):
    """Recorded data does not match its checksum, its run or its plan."""

    exit_code = 10


class PartialError(EvalhpcError):
    """There are scores, made without the answers to some requests: `run.max_failures`."""

    exit_code = 11


class BudgetError(EvalhpcError):
    """What would be submitted may use more GPU-hours than `run.max_gpu_hours` allows."""

    exit_code = 12


class FutileError(EvalhpcError):
    """A job that ends before it begins: those before it all failed alike, or it was itself
    started again too often."""

    exit_code = 13


class FrameError(IntegrityError):
    """A journal frame that is torn or whose checksum does not match."""
