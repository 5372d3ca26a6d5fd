"""Steering a run that exists: watch it, cancel it, go on with it, merge it."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from evalhpc.errors import BudgetError, ClusterError, StorageError, UsageError
from evalhpc.slurm.gate import Slurm
from evalhpc.storage.atomic import is_there, write_text
from evalhpc.storage.locks import claimed, exclusive
from evalhpc.workflow.collect.claim import alone
from evalhpc.workflow.faults.excluded_nodes import carried_over
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.jobs import (
    Job,
    driver_alive,
    is_elsewhere,
    record_job,
    recorded_jobs,
)
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.provenance import refuse_copied, refuse_moved
from evalhpc.workflow.record.rounds import (
    begun,
    load_plan,
    plan_unanswered,
    planned_rounds,
    unanswered,
)
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.tokens import drop_token
from evalhpc.workflow.submit.launch import (
    launch,
    launch_collect,
    launch_round,
    slurm_here,
    unrecorded,
)
from evalhpc.workflow.submit.local import GRACE, start_driver
from evalhpc.workflow.watch.status import ENDED, RunStatus, run_status

log = logging.getLogger(__name__)

#: Seconds between two looks at the run's files, and between two questions to Slurm.
LOOK = 0.5
ASK = 15.0


def scheduler_of(run: Run) -> Slurm | None:
    """The scheduler to ask about this run's jobs; None for a local run."""
    return slurm_here() if run.spec.site.scheduler == "slurm" else None


def watch(run: Run) -> Iterator[RunStatus]:
    """The status again and again until nothing happens any more; the last one is asked for anew."""
    slurm = scheduler_of(run)
    asked = 0.0
    while True:
        # Slurm is asked seldom: the files say what goes on, Slurm only whether anything still does.
        due = slurm is None or time.monotonic() - asked >= ASK or _may_be_over(run)
        try:
            status = run_status(run, slurm if due else None)
        except ClusterError:
            # A controller that is away for minutes is no news of the run.
            status, due, asked = run_status(run), False, time.monotonic()
        if due:
            asked = time.monotonic()
        yield status
        if due and status.state in ENDED:
            return
        time.sleep(LOOK)


def _may_be_over(run: Run) -> bool:
    return run.paths.certificate.exists() or run.paths.failure.exists()


def cancel(run: Run) -> int:
    """End every active job of the run and keep its answers; returns how many were ended."""
    if is_there(run.paths.certificate):
        raise UsageError(
            "the run is complete: there is nothing to cancel",
            hint=f"evalhpc results {run.word}",
        )
    refuse_copied(run)
    unwritten = _mark_cancelled(run)
    drop_token(run)
    active = {view.id for view in run_status(run, scheduler_of(run)).jobs if view.active}
    known = recorded_jobs(run.paths)
    jobs = [job for job in known if job.id in active and job.kind != "resume"]
    _say_elsewhere(run, known)
    slurm = scheduler_of(run)
    hidden = {} if slurm is None else unrecorded(run, slurm)
    if slurm is not None:
        slurm.cancel([*(job.id for job in jobs if job.scheduler == "slurm"), *hidden])
    for job in jobs:
        if job.scheduler == "local":
            _end_driver(job)
    if unwritten is not None:
        raise StorageError(
            f"{len(jobs) + len(hidden)} jobs were ended, but the run could not be marked as "
            f"cancelled: {unwritten.what}",
            cause=unwritten.cause,
            hint=f"evalhpc status {run.word}, and cancel again if a job is there",
        )
    return len(jobs) + len(hidden)


def _say_elsewhere(run: Run, jobs: Sequence[Job]) -> None:
    drivers = [job for job in jobs if job.kind == "driver" and is_elsewhere(job)]
    for job in drivers[-1:]:
        log.warning(
            "its driver was started on %s, and ends there after the script that it is at; to end "
            "it at once, on %s: evalhpc cancel %s", job.host, job.host, run.word,
        )  # fmt: skip


def _mark_cancelled(run: Run) -> StorageError | None:
    """First of all, so that a collector which starts now does not submit the next round.

    A full or read-only file system must not keep the jobs from being ended.
    """
    try:
        write_text(run.paths.cancelled, "")
    except StorageError as error:
        return error
    return None


def resume(run: Run, max_gpu_hours: float | None = None) -> list[Job]:
    """Go on where the run stands: plan anew, ask what is missing, or only collect.

    `max_gpu_hours` replaces the run's budget, of which what it has used is a part.
    """
    refuse_moved(run)
    if is_there(run.paths.certificate):
        raise UsageError(
            "the run is complete: there is nothing to resume",
            hint=f"evalhpc results {run.word}",
        )
    busy = "another `evalhpc resume` of this run is at work"
    with exclusive(run.paths.control_lock, busy), claimed(run.paths.resume_claim, busy):
        return _resume(run, max_gpu_hours)


def _resume(run: Run, max_gpu_hours: float | None) -> list[Job]:
    slurm = scheduler_of(run)
    known = recorded_jobs(run.paths)
    active = [view for view in run_status(run, slurm).jobs if view.active]
    # A deployment job that lingers serves the resumed run, or ends by itself.
    queued = {view.id: view.kind for view in active if view.kind != "deploy"}
    if slurm is not None:
        hidden = unrecorded(run, slurm)
        queued |= {job_id: kind for job_id, kind in hidden.items() if kind != "deploy"}
    if not queued and recorded_jobs(run.paths) != known:
        # A collector submitted them, and had ended by the time that Slurm was asked for it.
        queued = {job.id: job.kind for job in recorded_jobs(run.paths)[len(known) :]}
    if queued:
        raise UsageError(
            f"the run is still active ({', '.join(f'{k} {n}' for n, k in queued.items())})",
            hint=f"evalhpc status {run.word}, or{_where(known)} evalhpc cancel {run.word} first",
        )
    rounds = planned_rounds(run)
    scheduler = run.spec.site.scheduler
    last = rounds[-1] if rounds else 0
    with carried_over(run):
        run.paths.cancelled.unlink(missing_ok=True)
        run.paths.failure.unlink(missing_ok=True)
        record_job(run.paths, "resume", 0, last, scheduler, max_gpu_hours=max_gpu_hours)
    try:
        if not rounds:
            return launch(run)
        merge(run)
        return _resume_round(run, last)
    except (BudgetError, ClusterError) as error:
        note_failure(run, error)  # the run stands still as before, and should say why
        raise


def _where(jobs: Sequence[Job]) -> str:
    hosts = sorted({job.host for job in jobs if job.kind == "driver" and is_elsewhere(job)})
    return f" (on {', '.join(hosts)}, where its driver is)" if hosts else ""


def _resume_round(run: Run, last: int) -> list[Job]:
    with run.open_store() as store:
        missing = sum(1 for _ in unanswered(run, last, store))
        if missing:
            # A round that nobody has begun keeps its number; else a new one holds the rest.
            fresh = missing == load_plan(run, last).requests and not begun(run, last)
            round_ = last if fresh else plan_unanswered(run, last, store).round
    if run.spec.site.scheduler == "local":
        start_driver(run, first="shard" if missing else "collect")
        return recorded_jobs(run.paths)[-1:]
    return launch_round(run, round_) if missing else launch_collect(run, last)


def merge_run(run: Run) -> dict[str, Any]:
    """`evalhpc merge`: counts of the merge, and how much of the plan is answered."""
    if not run.paths.journals.is_dir() or not planned_rounds(run):
        raise StorageError(
            "this run has nothing to merge yet: no round was planned",
            hint=f"evalhpc status {run.word}",
        )
    with alone(run):  # a collector publishes the answers that its pass was given, and no more
        report = merge(run)
    last = planned_rounds(run)[-1]
    with run.open_store() as store:
        missing = sum(1 for _ in unanswered(run, last, store))
    return {
        "journals": report.journals,
        "answers": report.answers,
        "duplicates": report.duplicates,
        "damaged": len(report.damaged),
        "bytes": report.bytes,
        "missing": missing,
        "store": str(run.paths.store),
    }


def _end_driver(job: Job) -> None:
    """Ask a local driver to end; it passes the signal on to its scripts, and waits for them."""
    if not driver_alive(job):
        return
    os.kill(job.id, signal.SIGTERM)
    deadline = time.monotonic() + 2 * GRACE
    while driver_alive(job):
        if time.monotonic() > deadline:
            raise StorageError(
                f"the driver (process {job.id}) does not end",
                hint=f"look at it: ps -fp {job.id}",
            )
        time.sleep(0.1)
