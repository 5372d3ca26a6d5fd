"""What passes came to, as they wrote it down."""

from __future__ import annotations

from evalhpc.core.acceptance import Outcome
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run


def load_outcome(run: Run, number: int, benchmark: str) -> Outcome | None:
    """What a finished pass wrote down, or None."""
    path = run.paths.outcome(number, benchmark)
    return read_record(path, Outcome) if path.is_file() else None


def outcome_before(run: Run, number: int, benchmark: str) -> Outcome | None:
    """The latest outcome before pass `number`: rounds that only asked again had no pass."""
    earlier = (load_outcome(run, n, benchmark) for n in range(number - 1, -1, -1))
    return next((outcome for outcome in earlier if outcome is not None), None)


def another_pass_expected(run: Run, round_: int) -> bool:
    """Whether the pass before `round_` had requests that wait for its answers.

    Where it had none (single-turn), the next pass is the last one: it needs no model, so the
    shards end and the collector runs it on CPUs.
    """
    outcomes = (outcome_before(run, round_, b.name) for b in run.spec.benchmarks)
    return any(outcome is not None and outcome.dependents for outcome in outcomes)
