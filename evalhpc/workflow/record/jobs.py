"""jobs.jsonl: what was submitted for a run, written as each id returns."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evalhpc.errors import IntegrityError
from evalhpc.models.base import Frozen
from evalhpc.paths import RunPaths
from evalhpc.storage.atomic import append_jsonl, read_jsonl

#: Times that a run submits by itself a planning job, an array or a collector that was lost.
AGAIN = 2


class Job(Frozen):
    """One submitted job (`id` a Slurm id) or local driver (`id` a process id)."""

    kind: str  # planning, shard, collect; driver; resume marks where a user resumed
    id: int
    round: int
    scheduler: str
    started: str = ""  # of a local driver: its start time in /proc, which tells reuse of the id
    tasks: int = 1
    offset: int = 0  # shard number of an array's task 0
    walltime: str = ""  # instead of the script's
    why: str = ""  # where that walltime comes from
    again: str = ""  # why the run submitted by itself what it had submitted before
    at: float = 0.0  # seconds since the epoch, on the clock of `host`
    host: str = ""  # the machine that submitted it
    max_gpu_hours: float | None = None  # of a resume: the budget from then on


def record_job(
    paths: RunPaths,
    kind: str,
    job_id: int,
    round_: int,
    scheduler: str,
    *,
    tasks: int = 1,
    offset: int = 0,
    walltime: str = "",
    why: str = "",
    again: str = "",
    started: str = "",
    max_gpu_hours: float | None = None,
) -> None:
    """Append one job; called the moment that its id is known."""
    job = Job(
        kind=kind, id=job_id, round=round_, scheduler=scheduler, tasks=tasks, started=started,
        offset=offset, walltime=walltime, why=why, again=again,
        at=round(time.time(), 3), host=socket.gethostname(), max_gpu_hours=max_gpu_hours,
    )  # fmt: skip
    append_jsonl(paths.jobs, job.model_dump())


def recorded_jobs(paths: RunPaths) -> list[Job]:
    """Every job of the run, oldest first."""
    if not paths.jobs.exists():
        return []
    try:
        return [Job.model_validate(_known(record)) for record in read_jsonl(paths.jobs)]
    except (ValidationError, TypeError) as error:
        raise IntegrityError(
            f"{paths.jobs} holds a line that is no job",
            cause="it was edited",
            hint=f"cat {paths.jobs}  # remove that line",
        ) from error


def slurm_ids(jobs: Iterable[Job]) -> list[int]:
    """What Slurm knows these jobs by; a resume is recorded among them, and is none."""
    return [job.id for job in jobs if job.scheduler == "slurm" and job.kind != "resume"]


def rounds_since_resume(paths: RunPaths, planned: Sequence[int]) -> list[int]:
    """Those of the planned rounds that count against the budget: after the last resume."""
    resumed = [job.round for job in recorded_jobs(paths) if job.kind == "resume"]
    return [round_ for round_ in planned if round_ > max(resumed, default=0)]


def resumes(paths: RunPaths) -> int:
    """How often the run was resumed: tells what came before the last time from what came after."""
    return sum(1 for job in recorded_jobs(paths) if job.kind == "resume")


def launched(paths: RunPaths, round_: int, kind: str = "shard") -> list[int]:
    """Ids of the arrays, or other jobs, of this round that were submitted since the run was last
    resumed; of an array in several parts each."""
    return [job.id for job in _since_resume(paths) if (job.kind, job.round) == (kind, round_)]


def may_again(paths: RunPaths, round_: int, kind: str) -> bool:
    """Whether a run may submit by itself what was submitted for this round, and was lost."""
    return launches(paths, round_, kind) <= AGAIN


def launches(paths: RunPaths, round_: int, kind: str) -> int:
    """How often that was submitted since the run was last resumed."""
    since = [job for job in _since_resume(paths) if (job.kind, job.round) == (kind, round_)]
    return sum(1 for job in since if not job.offset)  # arrays have parts


def _since_resume(paths: RunPaths) -> list[Job]:
    since: list[Job] = []
    for job in recorded_jobs(paths):
        since = [] if job.kind == "resume" else [*since, job]
    return since


def was_fitted(paths: RunPaths, round_: int) -> bool:
    """Whether an array of this round had less time than the site's walltime."""
    jobs = recorded_jobs(paths)
    return any(job.kind == "shard" and job.round == round_ and job.walltime for job in jobs)


def process_start(pid: int) -> str:
    """When process `pid` began, in clock ticks since boot; "" when there is none."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    fields = content[content.rindex(b")") + 2 :].split()
    return "" if fields[0] == b"Z" else fields[19].decode()


def is_elsewhere(job: Job) -> bool:
    """Whether this process runs, or ran, on another machine that sees the run directory."""
    return job.scheduler == "local" and job.host not in ("", socket.gethostname())


def driver_alive(job: Job) -> bool:
    """Whether this local driver still runs here (and is not another process with its id)."""
    if is_elsewhere(job):
        return False
    return bool(job.started) and process_start(job.id) == job.started and job.id != os.getpid()


def _known(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in Job.model_fields if key in record}
