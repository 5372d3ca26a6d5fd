"""Submitting the jobs of a round as one transaction: all of them are in the queue, or none is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalhpc.errors import ClusterError, EvalhpcError
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import Dependency, TestOnly


@dataclass(frozen=True)
class Step:
    """One sbatch; `after_ok`, `after_any` and `after_begin` are kinds of earlier steps."""

    kind: str
    script: Path
    args: tuple[str, ...] = ()
    array: str | None = None
    after_ok: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()
    after_begin: tuple[str, ...] = ()
    comment: str | None = None
    extra: tuple[str, ...] = ()


def submit_chain(
    slurm: Slurm,
    steps: Sequence[Step],
    record: Callable[[str, int], None],
    tested: Callable[[str, TestOnly], None] = lambda _kind, _answer: None,
) -> list[int]:
    """Submit the steps in order and return their job ids.

    Slurm judges every script before the first is submitted; `tested(kind, answer)` gets to know
    what it said. `record(kind, job_id)` is called as
    each sbatch returns. Whatever goes wrong then (a refusal, `record` itself, Ctrl-C), the jobs
    already submitted are cancelled, newest first; the error names them.
    """
    _check(steps)
    for step in steps:
        answer = slurm.test_only(step.script, *step.args, array=step.array, extra=step.extra)
        tested(step.kind, answer)
    ids: dict[str, int] = {}
    try:
        for step in steps:
            ids[step.kind] = _submit(slurm, step, ids)
            record(step.kind, ids[step.kind])
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(_roll_back(slurm, ids)) from interrupt
    except Exception as error:
        raise _failed(step, error, _roll_back(slurm, ids)) from error
    return list(ids.values())


def _submit(slurm: Slurm, step: Step, ids: dict[str, int]) -> int:
    dependency = Dependency(
        after_ok=tuple(ids[kind] for kind in step.after_ok),
        after_any=tuple(ids[kind] for kind in step.after_any),
        after_begin=tuple(ids[kind] for kind in step.after_begin),
    )
    return slurm.submit(
        step.script,
        *step.args,
        dependency=dependency if str(dependency) else None,
        array=step.array,
        comment=step.comment,
        extra=step.extra,
    )


def _roll_back(slurm: Slurm, ids: dict[str, int]) -> str:
    """Cancel what was submitted; says what became of it."""
    if not ids:
        return "nothing was submitted"
    newest_first = [str(job_id) for job_id in reversed(ids.values())]
    try:
        for job_id in newest_first:
            slurm.cancel([int(job_id)])
    except ClusterError as error:
        return (
            f"jobs {', '.join(newest_first)} could not all be cancelled ({error.what}): "
            f"scancel {' '.join(newest_first)}"
        )
    return f"cancelled what was submitted before: {', '.join(newest_first)}"


def _failed(step: Step, error: Exception, outcome: str) -> EvalhpcError:
    """The same class of error, and so the same exit code, with what became of the chain."""
    if not isinstance(error, EvalhpcError):
        return ClusterError(f"the {step.kind} job was not submitted: {error!r}; {outcome}")
    # A subclass with arguments of its own (ProcessFailed) cannot be made from a text.
    simple = type(error).__init__ is EvalhpcError.__init__
    kind = type(error) if simple else ClusterError
    text = f"the {step.kind} job was not submitted: {error.what}\n  {outcome}"
    return kind(text, cause=error.cause, hint=error.hint)


def _check(steps: Sequence[Step]) -> None:
    earlier: set[str] = set()
    for step in steps:
        unknown = {*step.after_ok, *step.after_any, *step.after_begin} - earlier
        if unknown or step.kind in earlier:
            raise ValueError(f"step {step.kind!r} repeats, or waits for a later one: {unknown}")
        earlier.add(step.kind)
