"""Why a run ends without a score: what the collector says when no further round would help."""

from __future__ import annotations

from evalhpc.core.acceptance import Outcome, failure_reason, verdict
from evalhpc.errors import (
    EndpointError,
    EvalhpcError,
    HarnessError,
    IncompleteError,
    IntegrityError,
    StorageError,
)
from evalhpc.storage.atomic import read_jsonl
from evalhpc.workflow.faults.early_stop import fault_of_round
from evalhpc.workflow.faults.shard_failures import failure_files
from evalhpc.workflow.record.jobs import rounds_since_resume
from evalhpc.workflow.record.rounds import asks_anew, planned_rounds, within_budget
from evalhpc.workflow.record.run import Run

#: Exit codes of a harness that SIGKILL ended, as its parent or a shell between them says it.
_KILLED = (-9, 137)
#: What ended every shard of a round and is not the round's fault keeps its own exit code.
_BLAMED: dict[int, type[EvalhpcError]] = {
    kind.exit_code: kind for kind in (StorageError, EndpointError)
}


def refuse_failed(outcomes: list[Outcome]) -> None:
    """Raises HarnessError, or IntegrityError where it said nothing, for a pass that failed."""
    for outcome in outcomes:
        if verdict(outcome) == "failed":
            what, cause, hint = failure_reason(outcome)
            kind = HarnessError if outcome.exit_code or not outcome.asked else IntegrityError
            killed = outcome.exit_code in _KILLED
            cause = "it was killed, most often for want of memory" if killed else cause
            raise kind(what, cause=cause, hint=hint, transient=killed)


def hopeless(run: Run, round_: int, planned: int) -> EvalhpcError:
    """A round that answered nothing will not do better."""
    kind, cause, hint = _first_failure(run, round_)
    what = f"round {round_} answered none of its {planned} requests: there is no score"
    if (fault := fault_of_round(run, round_)) is not None:
        what += f" ({fault})"
    return kind(what, cause=cause, hint=hint)


def refuse_over_budget(run: Run, missing: int) -> None:
    """Raises IncompleteError where `missing` requests are left and no round is."""
    if within_budget(run):
        return
    rounds = planned_rounds(run)
    _, cause, _ = _first_failure(run, rounds[-1])
    used = rounds_since_resume(run.paths, rounds)
    fresh = sum(1 for round_ in used if asks_anew(run, round_))
    new = f", {fresh} of them with new questions of the harness" if fresh > 1 else ""
    raise IncompleteError(
        f"{missing} requests are unanswered after {len(used)} rounds{new}: there is no score",
        cause=cause,
        hint=f"evalhpc resume {run.word} (grants {run.spec.run.max_rounds} rounds more)",
    )


def refuse_endless(run: Run, number: int, outcomes: list[Outcome]) -> None:
    """The rounds are used up by a harness that always has more to ask, not by lost answers."""
    if within_budget(run):
        return
    asking = [outcome for outcome in outcomes if outcome.misses]
    new = ", ".join(f"{outcome.misses} of {outcome.benchmark}" for outcome in asking)
    waiting = sum(outcome.dependents for outcome in asking)
    raise IncompleteError(
        f"pass {number} still has new questions ({new}) after {run.spec.run.max_rounds} rounds, "
        "all of which were answered: there is no score",
        cause="a conversation with more turns than run.max_rounds"
        if waiting
        else "the harness asks in other words each time (a judge whose verdict it cannot read, "
        "an agent that goes on)",
        hint=f"evalhpc resume {run.word} (grants {run.spec.run.max_rounds} rounds more), "
        "or submit again with --miss forward, where the model answers during the pass",
    )


def _first_failure(run: Run, round_: int) -> tuple[type[EvalhpcError], str, str]:
    """(class, cause, next step) of a round that failed, from what its shards left behind."""
    records = [record for _, path in failure_files(run, round_) for record in read_jsonl(path)]
    fatal = next((r for r in records if "fatal" in r), None)
    if fatal is not None:
        kind = _BLAMED.get(fatal["exit_code"], IncompleteError)
        return kind, _reason(fatal), fatal["hint"] or f"evalhpc logs {run.word}"
    reason = next((str(r["reason"]) for r in records if "reason" in r), None)
    if reason is not None:
        return IncompleteError, reason, f"less {run.paths.journals}/*.failures.jsonl"
    return (
        IncompleteError,
        "the shards ended before they answered (walltime, preemption, node failure)",
        f"evalhpc logs {run.word}, then: evalhpc resume {run.word}",
    )


def _reason(fatal: dict[str, str]) -> str:
    """What a shard said when it ended; its cause stands before the lines of a log."""
    first, newline, rest = fatal["fatal"].partition("\n")
    return first + (f" ({fatal['cause']})" if fatal["cause"] else "") + newline + rest
