"""What follows a planning job or a collector that was killed, or asked to end before its time."""

from __future__ import annotations

import logging
from pathlib import Path

from evalhpc.errors import EvalhpcError, FutileError
from evalhpc.storage.atomic import is_there
from evalhpc.storage.leases import is_stolen
from evalhpc.workflow.faults.early_stop import restarts_here
from evalhpc.workflow.node.jobs import collecting, failed, own_job, planning
from evalhpc.workflow.node.lives import LIVES, live
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.jobs import AGAIN, launched, may_again, recorded_jobs
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run, open_run
from evalhpc.workflow.serve.herald import is_over
from evalhpc.workflow.submit.launch import launch_collect, slurm_here

log = logging.getLogger(__name__)


def planning_job(root: Path, lease: Path | None = None) -> int:
    """The planning job, begun again where it is killed; where it was asked to end, the collector
    sees to what follows. `lease`: of the shard that runs it."""
    ended = live(lambda _: planning(root, lease))
    if ended.killed and not (lease is not None and is_stolen(lease)):
        killed(root, "planning", ended.killed)
    return ended.code


def collector_job(root: Path, round_: int) -> int:
    """The collector, begun again where it is killed; asked to end, it leaves a successor."""
    ended = live(lambda life: collecting(root, round_, life))
    if ended.killed:
        killed(root, "collect", ended.killed)
    elif ended.asked and ended.code:
        hand_over(root, round_)
    return ended.code


def killed(root: Path, kind: str, signal_name: str) -> None:
    """Leave behind that a job was killed in each of its lives."""
    run = open_run(root)
    error = FutileError(
        f"the {kind} job was killed {LIVES} times by {signal_name}",
        cause="most often a lack of memory",
        hint=f"evalhpc explain {run.word}; submit again with --set resources.{kind}.memory=SIZE",
    )
    note_failure(run, error)
    failed(error)


def hand_over(root: Path, round_: int) -> None:
    """A collector was asked to end before it had decided (walltime, scancel, preemption): submit
    one that follows it, unless Slurm starts it again or the run was cancelled."""
    run, job = open_run(root), own_job()
    if job is None or not run.spec.site.resubmit or is_over(run):
        return
    latest = max(planned_rounds(run), default=round_)
    if latest > round_ and launched(run.paths, latest, "collect"):
        return
    try:
        _hand_over(run, round_, job)
    except EvalhpcError as error:
        failed(error)
        if not is_there(run.paths.cancelled):
            note_failure(run, error)


def _hand_over(run: Run, round_: int, job: int) -> None:
    why = f"job {job}, the collector before it, was asked to end (walltime, preemption, scancel)"
    if any(again.again == why for again in recorded_jobs(run.paths)):
        return  # in an earlier start
    known = slurm_here().jobs([job]).get(job, [])
    if any(record.restarts > restarts_here() for record in known):
        return  # Slurm will start it again
    if not may_again(run.paths, round_, "collect"):
        raise FutileError(
            f"not begun again: {1 + AGAIN} collectors of round {round_} were asked to end before "
            "they had decided",
            cause="a walltime (resources.collect) too short for a pass, preemption, scancel",
            hint=f"evalhpc resume {run.word}",
        )
    launch_collect(run, round_, after=[job], again=why)
    log.warning("%s: another one follows", why)
