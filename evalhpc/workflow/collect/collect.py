"""After a round: merge the journals, run the next pass, and publish, plan on, or say why not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from evalhpc.core.acceptance import verdict
from evalhpc.errors import (
    EvalhpcError,
    IncompleteError,
)
from evalhpc.storage.atomic import write_text
from evalhpc.storage.locks import exclusive
from evalhpc.storage.store import Store
from evalhpc.workflow.collect.claim import StillSole, claimed_collector
from evalhpc.workflow.collect.finish import publish
from evalhpc.workflow.collect.refusals import (
    hopeless,
    refuse_endless,
    refuse_failed,
    refuse_over_budget,
)
from evalhpc.workflow.faults.early_stop import restarts_here
from evalhpc.workflow.faults.excluded_nodes import choose_excluded, one_bad_node
from evalhpc.workflow.faults.failures import failed_requests, refuse_above_limit, worth_another
from evalhpc.workflow.faults.shard_failures import failure_files
from evalhpc.workflow.passes.live import bind, is_live_result, settle_answered
from evalhpc.workflow.passes.passes import load_outcome, run_pass
from evalhpc.workflow.passes.settle import refuse_unsettled
from evalhpc.workflow.record.jobs import launched, was_fitted
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.rounds import (
    load_plan,
    plan_misses,
    plan_round,
    planned_rounds,
    unanswered,
)
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.replica import Replicas
from evalhpc.workflow.slices.harness import check_prompts
from evalhpc.workflow.slices.listing import is_sliced
from evalhpc.workflow.slices.plan import cut, plan_sliced, publish_slices, refuse_unlike

log = logging.getLogger(__name__)

#: Seconds after which a file server lets go of what a dead client has locked (NFSv4: 90).
LOCK_LEASE = 180.0

State = Literal["complete", "more", "ended"]


@dataclass(frozen=True)
class Collected:
    """What a collector decided.

    complete: results are there; more: round `round` is planned and wants an array; ended: there
    is nothing for this collector to do.
    """

    state: State
    round: int
    requests: int = 0


def plan_first(run: Run, replicas: Replicas) -> Collected:
    """Pass 0: the misses of an empty store are the plan of round 1.

    With `run.shard_by: samples` it only cuts the documents: the plan follows once all are run.
    With `run.miss: forward` the replicas answer them at once, with `wait` all shards do; what an
    interrupted attempt has journalled is not asked again.
    """
    live = run.spec.run.miss != "stub"
    if live and any(run.paths.journals.iterdir()):
        merge(run)
    forward = run.spec.run.miss == "forward"
    outcomes = run_pass(run, 0, replicas.ready() if forward else None)
    refuse_failed(outcomes)
    if run.spec.run.shard_by == "samples":
        slices = cut(run)
        check_prompts(run, slices)
        publish_slices(run, slices)
        return Collected("more", 1, sum(outcome.misses for outcome in outcomes))
    plan = plan_misses(run, 0, partial(settle_answered, run) if live else None)
    if live:
        bind(run, 0, outcomes)
    return Collected("more", 1, plan.requests)


def collect(run: Run, round_: int) -> Collected:
    """Decide what follows round `round_`, `alone`; a failure is also left in `failure.json`."""
    if run.paths.cancelled.exists():
        log.info("the run was cancelled: nothing follows round %d", round_)
        return Collected("ended", round_)
    if run.paths.certificate.exists():
        log.info("the run is complete already")
        return Collected("ended", round_)
    rounds = planned_rounds(run)
    if not rounds and not is_sliced(run):
        raise _unplanned(run)
    # Passes inside the array may have planned further rounds. One that has an array of its own
    # has a collector of its own, too: this one was started a second time.
    latest = rounds[-1] if rounds else 1
    if latest > round_ and launched(run.paths, latest):
        log.info("round %d was submitted already: its collector goes on", latest)
        return Collected("ended", latest)
    return _collect_noting(run, latest)


@contextmanager
def alone(run: Run) -> Iterator[StillSole]:
    """Within the block, from the look at the rounds to the next one's submission, no other
    collector decides; StorageError where one is at work. To be called before what cannot be
    undone: it tells whether another has taken this one for dead.

    A collector that Slurm started again waits for the file server to take the lock from its first
    life, on a node that may have died with it.
    """
    wait = LOCK_LEASE if restarts_here() else 0.0
    busy = "another collector of this run is at work"
    with exclusive(run.paths.collect_lock, busy, wait=wait):
        if run.spec.site.scheduler == "local":
            yield lambda: None  # all on one machine, where locks do hold
            return
        with claimed_collector(run, busy) as still_sole:
            yield still_sole


def _collect_noting(run: Run, round_: int) -> Collected:
    run.paths.failure.unlink(missing_ok=True)
    try:
        choose_excluded(run)
        return _collect(run, round_)
    except EvalhpcError as error:
        note_failure(run, error)
        raise
    except Exception as error:
        note_failure(
            run, EvalhpcError(f"the collector failed: {error!r}", cause="a bug of evalhpc")
        )
        raise


def _unplanned(run: Run) -> IncompleteError:
    """The planning job failed, and has said why; else it ended before it could."""
    error = IncompleteError(
        "nothing was planned, so there is nothing to collect",
        cause="the planning job ended early: walltime, preemption, node failure, or cancelled",
        hint=f"evalhpc logs {run.word} --kind planning, then: evalhpc resume {run.word}",
    )
    if not run.paths.failure.exists():
        note_failure(run, error)
    return error


def note_failure(run: Run, error: EvalhpcError) -> None:
    """Leave the reason why the run stands still where `status` and a person find it."""
    if run.paths.certificate.exists():
        return  # a straggler's trouble is not that of a complete run
    record = {
        "error": type(error).__name__,
        "exit_code": error.exit_code,
        "what": error.what,
        "cause": error.cause,
        "hint": error.hint.replace(" RUN", f" {run.word}"),
    }
    write_text(run.paths.failure, json.dumps(record, indent=1) + "\n")


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
    if fruitless and not launched(run.paths, round_):
        # Planned inside an array that ended before it could begin with it.
        return Collected("more", round_, len(missing))
    failed = failed_requests(run, store)
    if fruitless and not (
        worth_another(run, round_, missing) or one_bad_node(run) or _too_short(run, round_)
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


def _too_short(run: Run, round_: int) -> bool:
    """Whether the time fitted to the round may be all that was wrong: the next has the site's."""
    silent = not failure_files(run, round_)
    return silent and was_fitted(run.paths, round_)
