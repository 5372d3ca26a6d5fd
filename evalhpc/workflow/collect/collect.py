"""After a round: merge the journals, run the next pass, and publish, plan on, or say why not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Literal

from evalhpc.core.acceptance import verdict
from evalhpc.errors import EvalhpcError, FutileError, IncompleteError, StorageError
from evalhpc.storage.atomic import is_there
from evalhpc.storage.store import Store
from evalhpc.workflow.collect.finish import publish
from evalhpc.workflow.collect.refusals import (
    hopeless,
    refuse_endless,
    refuse_failed,
    refuse_over_budget,
)
from evalhpc.workflow.faults.early_stop import fatal_records
from evalhpc.workflow.faults.excluded_nodes import choose_excluded, one_bad_node
from evalhpc.workflow.faults.failures import failed_requests, refuse_above_limit, worth_another
from evalhpc.workflow.faults.passing import may_pass
from evalhpc.workflow.faults.shard_failures import failure_files
from evalhpc.workflow.passes.live import given_what_counts, is_live_result, settle_answered
from evalhpc.workflow.passes.passes import (
    StillHeld,
    refuse_taken_over,
    run_pass,
)
from evalhpc.workflow.passes.settle import refuse_unsettled
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.jobs import AGAIN, launched, launches, may_again
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.outcomes import load_outcome
from evalhpc.workflow.record.rounds import (
    asks_anew,
    begun,
    load_plan,
    plan_misses,
    plan_round,
    planned_rounds,
    unanswered,
)
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import Interrupted
from evalhpc.workflow.serve.replica import Replicas
from evalhpc.workflow.slices.harness import check_prompts
from evalhpc.workflow.slices.listing import is_sliced
from evalhpc.workflow.slices.plan import cut, plan_sliced, publish_slices, refuse_unlike

log = logging.getLogger(__name__)

State = Literal["complete", "more", "unplanned", "uncollected", "ended"]


@dataclass(frozen=True)
class Collected:
    """What a collector decided.

    complete: results are there; more: round `round` is planned and wants an array; unplanned:
    planning was lost and is worth another try; uncollected: round `round` has an array and wants a
    collector; ended: there is nothing for this collector to do. `again`: why what is wanted is to
    be submitted once more.
    """

    state: State
    round: int
    requests: int = 0
    again: str = ""


def plan_first(run: Run, replicas: Replicas, still_held: StillHeld = lambda: True) -> Collected:
    """Pass 0: the misses of an empty store are the plan of round 1.

    With `run.shard_by: samples` it only cuts the documents: the plan follows once all are run.
    With `run.miss: forward` the replicas answer them at once, with `wait` all shards do; what an
    interrupted attempt has journalled is not asked again.

    Raises IncompleteError, and plans nothing, where the pass is not `still_held` by its shard.
    """
    live = run.spec.run.miss != "stub"
    if live and any(run.paths.journals.iterdir()):
        merge(run)
    endpoints = replicas.ready() if run.spec.run.miss == "forward" else None
    outcomes = run_pass(run, 0, endpoints, still_held)
    refuse_failed(outcomes)
    if live and not given_what_counts(run, outcomes):
        outcomes = run_pass(run, 0, endpoints, still_held)
        refuse_failed(outcomes)
    refuse_taken_over(still_held)
    if run.spec.run.shard_by == "samples":
        slices = cut(run)
        check_prompts(run, slices)
        publish_slices(run, slices)
        return Collected("more", 1, sum(outcome.misses for outcome in outcomes))
    plan = plan_misses(run, 0, partial(settle_answered, run) if live else None)
    return Collected("more", 1, plan.requests)


def collect(run: Run, round_: int) -> Collected:
    """Decide what follows round `round_`, `alone`; a failure is also left in `failure.json`."""
    if is_there(run.paths.cancelled):
        log.info("the run was cancelled: nothing follows round %d", round_)
        return Collected("ended", round_)
    if is_there(run.paths.certificate):
        log.info("the run is complete already")
        return Collected("ended", round_)
    rounds = planned_rounds(run)
    if not rounds and not is_sliced(run):
        return _unplanned(run)
    # Passes inside an array may plan further rounds. Where one has an array of its own, it has a
    # collector of its own, too, for all that follow: this one was started a second time.
    later = [number for number in rounds if number > round_ and launched(run.paths, number)]
    if later and not launched(run.paths, later[-1], "collect"):
        why = "the collector before it was killed between two submissions"
        return Collected("uncollected", later[-1], again=why)
    if later:
        log.info("round %d was submitted already: its collector goes on", later[-1])
        return Collected("ended", later[-1])
    return _collect_noting(run, rounds[-1] if rounds else 1)


def _collect_noting(run: Run, round_: int) -> Collected:
    run.paths.failure.unlink(missing_ok=True)
    try:
        choose_excluded(run)
        return _collect(run, round_)
    except Exception as error:
        note_unless_passing(run, "collector", error)
        raise


_LOST = "walltime, preemption, node failure, killed, or cancelled"


def _unplanned(run: Run) -> Collected:
    """The planning job ended before it could plan anything; raises where it has said why, ended so
    too often, or nobody here may submit it again."""
    kind, first = ("shard", 1) if run.plans_inline else ("planning", 0)
    said_why = run.paths.failure.exists()
    if not said_why and run.spec.site.resubmit and may_again(run.paths, first, kind):
        why = f"planning ended without a plan and without a reason ({_LOST})"
        return Collected("unplanned", 1, again=why)
    tries = launches(run.paths, first, kind)
    error = (FutileError if tries > AGAIN else IncompleteError)(
        "nothing was planned, so there is nothing to collect"
        + (f": planning was submitted {tries} times, and not once more" if tries > AGAIN else ""),
        cause=f"the planning job ended early: {_LOST}",
        hint=f"evalhpc logs {run.word} --kind planning, then: evalhpc resume {run.word}",
    )
    if not said_why:
        note_failure(run, error)
    raise error


def note_unless_passing(run: Run, kind: str, error: Exception) -> None:
    """`note_failure` of what ended a job, but for a file system that may be back soon, and for a
    job that was asked to end."""
    if may_pass(error) or isinstance(error, Interrupted):
        return
    if not isinstance(error, EvalhpcError):
        error = EvalhpcError(f"the {kind} failed: {error!r}", cause="a bug of evalhpc")
    note_failure(run, error)


def _collect(run: Run, round_: int) -> Collected:
    if not planned_rounds(run):
        plan_sliced(run)  # the array ended before the last of its slices
    merged = merge(run)
    with run.open_store() as store:
        again = _ask_again(run, round_, store)
        if again is not None:
            return again
    before = [load_outcome(run, round_ - 1, b.name) for b in run.spec.benchmarks]
    live = [outcome for outcome in before if outcome is not None]
    if len(live) == len(before) and is_live_result(run, live):
        publish(run, round_ - 1, live, merged)
        return Collected("complete", round_)
    outcomes = run_pass(run, round_)
    if run.spec.run.shard_by == "samples":
        refuse_unlike(run, outcomes)
    refuse_failed(outcomes)
    if all(verdict(outcome) == "final" for outcome in outcomes):
        publish(run, round_, outcomes, merged)
        return Collected("complete", round_)
    refuse_unsettled(run, round_, outcomes)
    refuse_endless(run, round_, outcomes)
    following = plan_misses(run, round_)
    return Collected("more", following.round, following.requests)


def _ask_again(run: Run, round_: int, store: Store) -> Collected | None:
    """Plan what the round left unanswered and is worth asking again; None where nothing is."""
    plan = load_plan(run, round_)
    missing = {request.key: request.benchmark for request in unanswered(run, round_, store)}
    if missing:
        log.info("round %d left %d of %d unanswered", round_, len(missing), plan.requests)
    fruitless = len(missing) == plan.requests > 0
    if fruitless and _never_began(run, round_):
        why = f"the array of round {round_} was lost before any of its tasks began ({_LOST})"
        return Collected("more", round_, len(missing), again=why)
    if fruitless and not launched(run.paths, round_):
        # Planned inside an array that ended before it could begin with it.
        return Collected("more", round_, len(missing))
    failed = failed_requests(run, store)
    if fruitless and not (
        worth_another(run, round_, missing) or one_bad_node(run) or _cut_off(run, round_)
    ):
        refuse_above_limit(run, failed)
        raise hopeless(run, round_, plan.requests)
    refuse_above_limit(run, failed)
    left = missing.keys() - failed.keys()
    if not left:
        return None
    refuse_over_budget(run, len(left))
    wanted = (request for request in unanswered(run, round_, store) if request.key in left)
    following = plan_round(run, round_ + 1, wanted)
    return Collected("more", following.round, following.requests)


def wants_array(run: Run, round_: int) -> bool:
    """After a collector that had nothing against it: whether the last round wants an array."""
    # One without an array yet: planned by this collector, or by a pass inside the last array.
    if not launched(run.paths, round_):
        return True
    if not planned_rounds(run) and not is_sliced(run):
        return run.plans_inline and may_again(run.paths, round_, "shard")
    return _never_began(run, round_)


def _never_began(run: Run, round_: int) -> bool:
    """Whether an array was submitted, no shard has looked at the round, and one more may try."""
    lost = launched(run.paths, round_) and not _began(run, round_)
    return bool(lost) and may_again(run.paths, round_, "shard")


def _cut_off(run: Run, round_: int) -> bool:
    """Whether shards were ended before they answered (by a walltime that was fitted too tightly,
    too), or met a full disk: one more round may do better, unless this was that one."""
    ends = [record for _, record in fatal_records(run, round_) if "fatal" in record]
    asked_again = (
        round_ - 1 in planned_rounds(run)
        and not asks_anew(run, round_)
        and load_plan(run, round_ - 1).requests == load_plan(run, round_).requests
    )
    disk = all(record["exit_code"] == StorageError.exit_code for record in ends)
    return disk and _began(run, round_) and not asked_again


def _began(run: Run, round_: int) -> bool:
    return begun(run, round_) or bool(failure_files(run, round_))
