"""Submitting the jobs of a round as one transaction: all of them are in the queue, or none is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalhpc.errors import ClusterError, EvalhpcError
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import Dependency, TestOnly
from evalhpc.slurm.submission import LostJob


class LeftBehind(ClusterError):
    """A chain that failed and could not be undone: some of its jobs may be in the queue."""


@dataclass(frozen=True)
class Step:
    """One sbatch; `after_ok`, `after_any` and `after_begin` (arrays) are keys of earlier steps."""

    kind: str
    script: Path
    args: tuple[str, ...] = ()
    array: str | None = None
    after_ok: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()
    after_begin: tuple[str, ...] = ()
    comment: str | None = None
    extra: tuple[str, ...] = ()
    part: int = 0  # of several steps of one kind: 0, 1, …
    first: int = 0  # of an array that is such a part: what its task 0 is the number of
    walltime: str = ""  # instead of the script's
    why: str = ""  # where that walltime comes from

    @property
    def key(self) -> str:
        """What later steps name it by: its kind, and which part it is."""
        return f"{self.kind}+{self.part}" if self.part else self.kind

    @property
    def options(self) -> tuple[str, ...]:
        """What sbatch gets on its command line, which counts before the script's own lines."""
        return (*self.extra, *((f"--time={self.walltime}",) if self.walltime else ()))


def submit_chain(
    slurm: Slurm,
    steps: Sequence[Step],
    record: Callable[[Step, int], None],
    tested: Callable[[str, TestOnly], None] = lambda _kind, _answer: None,
) -> list[int]:
    """Submit the steps in order and return their job ids.

    Slurm judges every script before the first is submitted; `tested(kind, answer)` gets to know
    what it said; parts of one kind are judged by the first. `record(step, job_id)` is called as
    each sbatch returns. Whatever goes wrong then (a refusal, `record` itself, Ctrl-C), the jobs
    already submitted are cancelled, newest first; the error names them. It is LeftBehind where
    the controller is away: then nobody can say what of the chain is in the queue.
    """
    _check(steps)
    for step in steps:
        if step.part:
            continue
        answer = slurm.test_only(step.script, *step.args, array=step.array, extra=step.options)
        tested(step.kind, answer)
    ids: dict[str, int] = {}
    try:
        for step in steps:
            ids[step.key] = _submit(slurm, step, ids)
            record(step, ids[step.key])
    except KeyboardInterrupt as interrupt:
        raise _interrupted(slurm, ids) from interrupt
    except Exception as error:
        outcome, undone = _roll_back(slurm, ids)
        raise _failed(step, error, outcome, undone=undone) from error
    return list(ids.values())


def _submit(slurm: Slurm, step: Step, ids: dict[str, int]) -> int:
    dependency = Dependency(
        after_ok=tuple(ids[key] for key in step.after_ok),
        after_any=tuple(ids[key] for key in step.after_any),
        after_begin=tuple(ids[key] for key in step.after_begin),
    )
    return slurm.submit(
        step.script,
        *step.args,
        dependency=dependency if str(dependency) else None,
        array=step.array,
        comment=step.comment,
        extra=step.options,
    )


def _roll_back(slurm: Slurm, ids: dict[str, int]) -> tuple[str, bool]:
    """Cancel what was submitted; what became of it, and whether nothing is left."""
    if not ids:
        return "nothing was submitted", True
    newest_first = [str(job_id) for job_id in reversed(ids.values())]
    try:
        for job_id in newest_first:
            slurm.cancel([int(job_id)])
    except ClusterError as error:
        return (
            f"jobs {', '.join(newest_first)} could not all be cancelled ({error.what}): "
            f"scancel {' '.join(newest_first)}"
        ), False
    return f"cancelled what was submitted before: {', '.join(newest_first)}", True


def _interrupted(slurm: Slurm, ids: dict[str, int]) -> BaseException:
    """Ctrl-C once more while the chain is undone leaves what a controller that is away leaves."""
    try:
        outcome, undone = _roll_back(slurm, ids)
    except KeyboardInterrupt:
        left = " ".join(str(job_id) for job_id in reversed(ids.values()))
        outcome, undone = f"not all was cancelled: scancel {left}", False
    if undone:
        return KeyboardInterrupt(outcome)
    return LeftBehind(f"interrupted, and {outcome}", cause="you did not wait for Slurm's answer")


def _failed(step: Step, error: Exception, outcome: str, *, undone: bool) -> EvalhpcError:
    """The same class of error, and so the same exit code, with what became of the chain."""
    if not isinstance(error, EvalhpcError):
        kind: type[EvalhpcError] = ClusterError if undone else LeftBehind
        return kind(f"the {step.kind} job was not submitted: {error!r}; {outcome}")
    text = f"the {step.kind} job was not submitted: {error.what}\n  {outcome}"
    if not undone or isinstance(error, LostJob):
        return LeftBehind(text, cause=error.cause, hint=error.hint)
    # A subclass with arguments of its own (ProcessFailed) cannot be made from a text.
    simple = type(error).__init__ is EvalhpcError.__init__
    same = type(error) if simple else ClusterError
    return same(text, cause=error.cause, hint=error.hint)


def _check(steps: Sequence[Step]) -> None:
    earlier: set[str] = set()
    for step in steps:
        unknown = {*step.after_ok, *step.after_any, *step.after_begin} - earlier
        if unknown or step.key in earlier:
            raise ValueError(f"step {step.key!r} repeats, or waits for a later one: {unknown}")
        earlier.add(step.key)
