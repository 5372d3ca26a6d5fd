"""Where a run stands: from its files, and one batched question to Slurm."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

from pydantic import Field

from evalhpc.core.acceptance import Outcome
from evalhpc.models.base import Frozen
from evalhpc.slurm.jobs import JobRecord
from evalhpc.slurm.states import UNKNOWN
from evalhpc.storage.atomic import look_anew, read_jsonl
from evalhpc.storage.round_view import done_units, worker_stats
from evalhpc.workflow.faults.excluded_nodes import excluded_nodes
from evalhpc.workflow.faults.shard_failures import ShardFailure, shard_failures, silent_shards
from evalhpc.workflow.record.job_answers import JobAnswers, ask
from evalhpc.workflow.record.jobs import (
    Job,
    driver_alive,
    is_elsewhere,
    recorded_jobs,
    slurm_ids,
)
from evalhpc.workflow.record.provenance import moved_from
from evalhpc.workflow.record.records import read_object, read_record
from evalhpc.workflow.record.rounds import load_plan, planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.slices.listing import SLICE_ROUND, is_sliced, load_slices

State = Literal[
    "rendered", "planning", "answering", "collecting", "complete", "failed", "cancelled", "stalled"
]
#: Bytes; with less, a job cannot even write down why it failed.
_FULL = 1 << 16
#: States in which nothing happens any more without a user.
ENDED = frozenset({"rendered", "complete", "failed", "cancelled", "stalled"})


#: Seconds after which a submitted job must be known to Slurm, on the clock of the submitter.
_SETTLED = 60.0


class JobSource(Protocol):
    """Who knows of jobs: the gate to Slurm, or what it once answered."""

    def jobs(self, job_ids: Iterable[int]) -> dict[int, list[JobRecord]]:
        """Records by submitted id."""


class WorkerView(Frozen):
    """What a shard last said of itself."""

    name: str
    node: str = ""
    state: str = ""
    answered: int = 0
    failed: int = 0
    concurrency: int = 0  # requests that it may have in flight now


class JobView(Frozen):
    """A recorded job with what the scheduler says of it."""

    kind: str
    id: int
    round: int
    state: str
    active: bool
    walltime: str = ""  # fitted to what was measured; "": the site's
    why: str = ""  # where that comes from
    again: str = ""  # why the run submitted by itself what it had submitted before


class RunStatus(Frozen):
    """`evalhpc status --json`."""

    run_id: str
    run_dir: str
    state: State
    pass_number: int
    round: int
    why: str = ""
    requests: int = 0  # of this round
    answered: int = 0
    units: int = 0
    units_done: int = 0
    asked: int = 0  # by the harness, in the pass that is running
    given_up: int = 0  # requests of the run that failed for good; failures.jsonl has them
    workers: tuple[WorkerView, ...] = ()
    jobs: tuple[JobView, ...] = ()
    failed_shards: tuple[ShardFailure, ...] = ()  # of all rounds; others may do their work
    excluded_nodes: dict[str, tuple[str, ...]] = Field(default={})  # node → what failed there
    moved_from: str = ""  # where a copied or moved run was submitted
    scheduler: str = ""  # why Slurm's word is missing, where it was asked in vain
    failure: dict[str, Any] | None = None

    @property
    def again(self) -> dict[str, str]:
        """Why the run submitted jobs once more by itself → which ones."""
        found: dict[str, list[str]] = {}
        for job in self.jobs:
            if job.again:
                found.setdefault(job.again, []).append(f"{job.kind} {job.id}")
        return {why: ", ".join(jobs) for why, jobs in found.items()}


def run_status(run: Run, slurm: JobSource | None = None) -> RunStatus:
    """The status; without `slurm`, Slurm jobs that were recorded count as active."""
    look_anew(run.paths.root)  # a run that is complete must not look as if it had stalled
    rounds = planned_rounds(run)
    round_ = rounds[-1] if rounds else 0
    recorded = recorded_jobs(run.paths)
    records = _records(recorded, slurm)
    failure = _failure(run)
    settled = failure is not None or run.paths.cancelled.exists()
    jobs = tuple(_view(job, records, settled) for job in recorded if job.kind != "resume")
    state = _state(run, jobs, failure, round_)
    progress: dict[str, Any] = _round_progress(run, round_) if round_ else _slice_progress(run)
    number, asked = _pass_progress(run, round_, state)
    silent = silent_shards(run, round_, _ended(recorded, records))
    return RunStatus(
        run_id=run.spec.run_id,
        run_dir=str(run.paths.root),
        state=state,
        pass_number=number,
        round=round_,
        why=_why(run, state, round_),
        asked=asked,
        given_up=len(read_jsonl(run.paths.failures)),
        jobs=jobs,
        failed_shards=(*shard_failures(run), *silent),
        excluded_nodes=excluded_nodes(run),
        moved_from=moved_from(run),
        failure=failure,
        **progress,
    )


def look(run: Run, answers: JobAnswers | None = None) -> RunStatus:
    """The status with Slurm's word, or without where it does not answer: `scheduler` says why."""
    answers = ask(run) if answers is None else answers
    found = run_status(run, answers if answers.slurm is not None else None)
    missing = "" if found.state == "complete" else answers.why_not
    return found.model_copy(update={"scheduler": missing})


def _records(jobs: list[Job], slurm: JobSource | None) -> dict[int, list[JobRecord]] | None:
    ids = slurm_ids(jobs)
    return slurm.jobs(ids) if slurm is not None and ids else None


def _ended(jobs: list[Job], records: dict[int, list[JobRecord]] | None) -> Callable[[int], bool]:
    """Of a shard, whether its job is known to have ended: of every array that may have it."""
    arrays = [job for job in jobs if job.kind == "shard"]

    def ended(shard: int) -> bool:
        for job in arrays:
            if job.scheduler == "local":
                over = not driver_alive(job) and not is_elsewhere(job)
            else:
                tasks = (records or {}).get(job.id, [])
                mine = [task for task in tasks if task.task_id in (shard - job.offset, None)]
                over = records is not None and not any(_is_active(job, task) for task in mine)
            if not over:
                return False
        return bool(arrays)

    return ended


def _view(job: Job, records: dict[int, list[JobRecord]] | None, settled: bool) -> JobView:
    if is_elsewhere(job):
        # It cannot be seen from here. A driver ends once the run has failed or is cancelled.
        return JobView(
            kind=job.kind, id=job.id, round=job.round, again=job.again, state=f"on {job.host}",
            active=job.kind == "driver" and not settled,
        )  # fmt: skip
    if job.scheduler == "local":
        alive = driver_alive(job)
        return JobView(
            kind=job.kind, id=job.id, round=job.round, active=alive,
            state="RUNNING" if alive else "ENDED", again=job.again,
        )  # fmt: skip
    if records is None:
        return JobView(kind=job.kind, id=job.id, round=job.round, state="?", active=True,
                       again=job.again)  # fmt: skip
    tasks = records.get(job.id, [])
    states = sorted({task.state for task in tasks})
    active = any(_is_active(job, task) for task in tasks)
    name = "+".join(states) or "UNKNOWN"
    return JobView(
        kind=job.kind, id=job.id, round=job.round, state=name, active=active,
        walltime=job.walltime, why=job.why, again=job.again,
    )  # fmt: skip


def _is_active(job: Job, task: JobRecord) -> bool:
    """A job that Slurm has forgotten has ended; one just submitted may not be known yet."""
    if task.state == UNKNOWN:
        # Another machine's clock says nothing here; nor is its job likely to be that young.
        return job.host == socket.gethostname() and 0 <= time.time() - job.at < _SETTLED
    return not task.terminal


def _state(
    run: Run, jobs: tuple[JobView, ...], failure: dict[str, Any] | None, round_: int
) -> State:
    if run.paths.certificate.exists():
        return "complete"
    # A deployment job that lingers does nothing by itself.
    active = {job.kind for job in jobs if job.active and job.kind != "deploy"}
    if run.paths.cancelled.exists() and not active:
        return "cancelled"
    if failure is not None and not active:
        return "failed"
    if not jobs and not run.paths.jobs.exists():
        return "rendered"
    if not active:
        return "stalled"
    if not round_ and not is_sliced(run):
        return "planning"
    open_units = _open_units(run, round_) if round_ else _open_slices(run)
    if open_units > 0 and active & {"shard", "driver"}:
        return "answering"
    return "collecting"


def _round_progress(run: Run, round_: int) -> dict[str, Any]:
    plan = load_plan(run, round_)
    workers = _workers(run, round_)
    return {
        "requests": plan.requests,
        "answered": min(plan.requests, sum(worker.answered for worker in workers)),
        "units": len(plan.units),
        "units_done": len(plan.units) - _open_units(run, round_),
        "workers": workers,
    }


def _slice_progress(run: Run) -> dict[str, Any]:
    """Of round 1 while it is answered slice by slice, before it is planned."""
    slices = load_slices(run)
    if not slices:
        return {}
    outcomes = [
        read_record(run.paths.outcome(0, benchmark.name), Outcome)
        for benchmark in run.spec.benchmarks
    ]
    workers = _workers(run, SLICE_ROUND)
    return {
        "requests": sum(outcome.misses for outcome in outcomes),
        "answered": sum(worker.answered for worker in workers),
        "units": len(slices),
        "units_done": len(slices) - _open_slices(run),
        "workers": workers,
    }


def _open_slices(run: Run) -> int:
    done = done_units(run.paths.round_leases(SLICE_ROUND))
    return sum(1 for slice_ in load_slices(run) if slice_.id not in done)


def _open_units(run: Run, round_: int) -> int:
    done = done_units(run.paths.round_leases(round_))
    return sum(1 for unit in load_plan(run, round_).units if unit.id not in done)


def _workers(run: Run, round_: int) -> tuple[WorkerView, ...]:
    views = []
    for name, said in worker_stats(run.paths.round_leases(round_)).items():
        known = WorkerView.model_fields.keys() - {"name"}
        fields = {key: value for key, value in said.items() if key in known}
        views.append(WorkerView(name=name, **fields))
    return tuple(views)


def _pass_progress(run: Run, round_: int, state: State) -> tuple[int, int]:
    """(number of the latest pass, requests that its harnesses have asked so far)."""
    number = round_ if state in ("collecting", "complete") else max(0, round_ - 1)
    if state == "planning":
        number = 0
    asked = 0
    for benchmark in run.spec.benchmarks:
        path = run.paths.pass_progress(number, benchmark.name)
        if path.is_file():
            asked += int(read_object(path)["asked"])
    return number, asked


def _why(run: Run, state: State, round_: int) -> str:
    """One line on what is going on, or why the run stands still."""
    if state == "stalled":
        return f"{stall_cause(run)}; evalhpc resume {run.word}"
    if state == "rendered":
        return "nothing was submitted"
    if state in ("complete", "failed", "cancelled"):
        return ""
    if _disk_is_full(run):
        return "the file system of the run is full: its jobs wait for room, or for their end"
    if not round_:
        return "shards run the harness on slices of the documents" if is_sliced(run) else ""
    misses = []
    for benchmark in run.spec.benchmarks:
        path = run.paths.outcome(round_ - 1, benchmark.name)
        if path.is_file():
            outcome = read_record(path, Outcome)
            misses.append(f"{benchmark.name}: {outcome.misses} misses")
    if not misses:
        return f"round {round_} asks again what round {round_ - 1} left unanswered"
    return f"round {round_} answers the misses of pass {round_ - 1} ({', '.join(misses)})"


def stall_cause(run: Run) -> str:
    """Why no job of the run is active any more, as far as that could be written down."""
    if _disk_is_full(run):
        return "the file system of the run is full: free some space"
    if not recorded_jobs(run.paths):
        return "it is just being submitted, or its submission was cut short"
    return "no job of this run is active any more: they ended early"


def _disk_is_full(run: Run) -> bool:
    return shutil.disk_usage(run.paths.root).free < _FULL


def _failure(run: Run) -> dict[str, Any] | None:
    if not run.paths.failure.is_file():
        return None
    return read_object(run.paths.failure)
