"""What runs inside the jobs: one function a batch script, returning its exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from evalhpc.errors import BudgetError, EvalhpcError, IncompleteError, StorageError
from evalhpc.storage.leases import is_stolen
from evalhpc.workflow.collect.claim import PATIENCE, StillSole, alone
from evalhpc.workflow.collect.collect import Collected, collect, note_unless_passing, plan_first
from evalhpc.workflow.faults.early_stop import (
    answering_round,
    calling_off,
    refuse_restarts,
    restarts_here,
)
from evalhpc.workflow.faults.passing import await_room, may_pass, patiently
from evalhpc.workflow.passes.passes import StillHeld
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.jobs import launched, recorded_jobs, slurm_ids
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run, open_run
from evalhpc.workflow.record.signals import INTERRUPTED, Interrupted
from evalhpc.workflow.record.tokens import drop_token
from evalhpc.workflow.serve.deployment import run_deployment
from evalhpc.workflow.serve.herald import is_over
from evalhpc.workflow.serve.replica import Replicas
from evalhpc.workflow.shard.shard import run_shard
from evalhpc.workflow.submit.launch import (
    end_unrecorded,
    launch_collect,
    launch_planning,
    launch_round,
)

log = logging.getLogger(__name__)

#: Seconds that a shard, which may hold GPUs, waits for a file system that is full or away.
SHARD_WAITS = 60.0


def planning(root: Path, lease: Path | None = None) -> int:
    """Pass 0 and the first plan.

    `lease`: of the shard whose pass this is. Once another one has taken it over, whatever becomes
    of this pass is no failure of the run.
    """
    run = open_run(root)

    def still_held() -> bool:
        return lease is None or not is_stolen(lease)

    try:
        refuse_restarts(run, restarts_here())
        patiently(run, lambda: _plan(run, still_held))
    except EvalhpcError as error:
        if still_held():
            note_failure(run, error)
        return failed(error)
    except Interrupted:
        return INTERRUPTED
    except Exception as error:
        what = f"the planning job failed: {error!r}"
        if still_held():
            note_failure(run, EvalhpcError(what, cause="a bug of evalhpc"))
        raise
    return 0


def _plan(run: Run, still_held: StillHeld) -> None:
    with Replicas(run, 0, 0) as replicas:
        planned = plan_first(run, replicas, still_held)
    log.info("planned %d requests for round 1", planned.requests)


def answering(root: Path, round_: int, shard: int) -> int:
    """One shard."""
    run = open_run(root)
    try:
        with calling_off(run, answering_round(run, round_)):
            counts = run_shard(run, round_, shard)
    except EvalhpcError as error:
        if may_pass(error) and run.spec.site.scheduler == "slurm":
            _let_pass(run)
        return failed(error)
    except Interrupted:
        return INTERRUPTED
    print(f"answered {counts.answered} requests in {counts.units} units")
    return 0


def _let_pass(run: Run) -> None:
    """A shard stays while the file system is away: the collector starts as the last one ends, and
    without a file system Slurm cannot even open its log."""
    try:
        await_room(run, SHARD_WAITS)
    except EvalhpcError as error:
        log.error("%s", error.what)


def deploying(root: Path, job: int) -> int:
    """A deployment job."""
    try:
        run = open_run(root)
        refuse_restarts(run, restarts_here())
        run_deployment(run, job)
    except EvalhpcError as error:
        return failed(error)
    except Interrupted:
        return INTERRUPTED
    return 0


def collecting(root: Path, round_: int, life: int = 1) -> int:
    """The collector; on Slurm it submits what follows itself, where the site allows that.

    `life`: how often this job has begun it; those before were killed.
    """
    run = open_run(root)
    try:
        _refuse_restarts(run)
        patiently(run, lambda: _decide(run, round_, life))
    except EvalhpcError as error:
        if may_pass(error):
            note_failure(run, error)
        return failed(error)
    except Interrupted:
        return INTERRUPTED
    finally:
        if is_over(run):
            drop_token(run)
    return 0


def _refuse_restarts(run: Run) -> None:
    try:
        refuse_restarts(run, restarts_here())
    except EvalhpcError as error:
        note_failure(run, error)
        raise


def _decide(run: Run, round_: int, life: int) -> None:
    with _alone(run) as still_sole:
        collected = collect(run, round_)
        if collected.state in ("complete", "ended"):
            return
        if collected.state == "more":
            log.info("round %d has %d requests", collected.round, collected.requests)
        if collected.again:
            log.warning("%s: it is submitted again", collected.again)
        still_sole()
        _go_on(run, collected, life)


@contextmanager
def _alone(run: Run) -> Iterator[StillSole]:
    """`alone`; the run's own collector that waited in vain says so, as nobody may follow it."""
    with ExitStack() as stack:
        try:
            still_sole = stack.enter_context(alone(run, PATIENCE))
        except StorageError as error:
            if own_job() in slurm_ids(recorded_jobs(run.paths)):  # a local one's driver sees to it
                note_unless_passing(run, "collector", error)
            raise
        yield still_sole


def _go_on(run: Run, collected: Collected, life: int) -> None:
    if run.spec.site.scheduler != "slurm":
        return  # the local driver sees the new plan and goes on
    if run.spec.site.resubmit:
        try:
            if life > 1 or restarts_here() > 0 or _is_successor(run):
                end_unrecorded(run, besides=own_job())
            _launch_within_budget(run, collected)
        except Exception as error:
            note_unless_passing(run, "collector", error)
            raise
    else:
        print(f"this site's jobs may not submit; next: evalhpc resume {run.word}")


def _is_successor(run: Run) -> bool:
    """Whether this job was submitted for one that was asked to end, perhaps amid a submission."""
    return any(job.again for job in recorded_jobs(run.paths) if job.id == own_job())


def _launch_within_budget(run: Run, collected: Collected) -> None:
    round_, again = collected.round, collected.again
    try:
        if collected.state == "unplanned":
            launch_planning(run, again=again)
        elif collected.state == "uncollected":
            launch_collect(run, round_, after=launched(run.paths, round_), again=again)
        else:
            launch_round(run, round_, again=again)
    except BudgetError as error:
        planned = f"round {round_} is planned" if planned_rounds(run) else "nothing is planned"
        raise IncompleteError(
            f"{planned} and there is no score yet: {error.what}",
            cause="run.max_gpu_hours is used up, as far as the next array could need it",
            hint=f"evalhpc resume {run.word} --max-gpu-hours H",
        ) from error


def own_job() -> int | None:
    """The Slurm job that this is; None outside of one."""
    number = os.environ.get("SLURM_JOB_ID", "")
    return int(number) if number.isdigit() else None


def failed(error: EvalhpcError) -> int:
    """Say so, and return the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code
