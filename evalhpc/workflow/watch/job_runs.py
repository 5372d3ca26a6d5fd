"""From a bare Slurm job id to its run: by the runs' own records, else by where the job starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from evalhpc.errors import ClusterError, EvalhpcError, UsageError
from evalhpc.paths import RunPaths
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import JobRecord
from evalhpc.slurm.states import UNKNOWN
from evalhpc.workflow.record.job_answers import JobAnswers, ask, impatient
from evalhpc.workflow.record.jobs import Job, recorded_jobs
from evalhpc.workflow.record.run import Run, open_run
from evalhpc.workflow.watch.explain import Explanation, Target, explain_run
from evalhpc.workflow.watch.findings import CODE, WAITS, job_findings, placed_below
from evalhpc.workflow.watch.listing import find_run, run_dirs, run_roots

_JOB = re.compile(r"(?P<job>[1-9]\d*)(?:_(?P<task>\d+))?")


def explain(name: str, env: Mapping[str, str]) -> Explanation:
    """Explain a run (its directory or id) or a Slurm job (`123`, `123_4`)."""
    asked = _JOB.fullmatch(name)
    if asked is None or Path(name).is_dir():
        run = find_run(name, env)
        return explain_run(run, ask(run))
    task = int(asked["task"]) if asked["task"] else None
    return _explain_job(int(asked["job"]), task, env)


def _explain_job(job_id: int, task: int | None, env: Mapping[str, str]) -> Explanation:
    slurm, why_not = _cluster()
    found = _recorded(job_id, env)
    if found is None and slurm is not None:
        try:
            found = _at(slurm.folder(job_id), job_id)
        except ClusterError as error:
            slurm, why_not = None, error.what
    if found is not None:
        run, job = found
        answers = JobAnswers(None, (), why_not) if slurm is None else ask(run, slurm, job_id)
        return explain_run(run, answers, Target(job, task))
    return _stranger(job_id, task, slurm, why_not)


def _cluster() -> tuple[Slurm | None, str]:
    try:
        return impatient(), ""
    except ClusterError as error:
        return None, error.what


def _recorded(job_id: int, env: Mapping[str, str]) -> tuple[Run, Job] | None:
    """The run that recorded this job; the latest, where a cluster began its numbers anew."""
    found: list[tuple[float, Run, Job]] = []
    for folder in (path for root in run_roots(env) for path in run_dirs(root)):
        try:
            run = open_run(folder)
            found += [(job.at, run, job) for job in recorded_jobs(run.paths) if _is(job, job_id)]
        except EvalhpcError:
            continue  # a run that cannot be read must not hide the one that was asked for
    latest = max(found, key=lambda entry: entry[0], default=None)
    return None if latest is None else latest[1:]


def _at(folder: Path | None, job_id: int) -> tuple[Run, Job] | None:
    """The run in whose directory the job starts; one that a user submitted by hand is `other`."""
    if folder is None or not RunPaths(folder).spec.is_file():
        return None
    run = open_run(folder)
    by_hand = Job(kind="other", id=job_id, round=0, scheduler="slurm")
    known = (job for job in recorded_jobs(run.paths) if _is(job, job_id))
    return run, next(known, by_hand)


def _is(job: Job, job_id: int) -> bool:
    return job.id == job_id and job.scheduler == "slurm"


def _stranger(job_id: int, task: int | None, slurm: Slurm | None, why_not: str) -> Explanation:
    """A job of no run that we can find: what Slurm alone says of it."""
    label = f"{job_id}" if task is None else f"{job_id}_{task}"
    answers = JobAnswers(slurm, [job_id], why_not)
    records = [r for r in answers.jobs([job_id])[job_id] if task in (None, r.task_id)]
    if answers.slurm is None or _unknown(records):
        raise UsageError(
            f"no run that is known here has a job {label}"
            + (f", and Slurm does not answer: {answers.why_not}" if answers.why_not else
               ", and neither has Slurm"),
            cause="a job of another cluster, or one that Slurm and its run have forgotten",
            hint="evalhpc ls runs, then evalhpc explain RUN",
        )  # fmt: skip
    found = placed_below("RUN", (item for record in records for item in job_findings(record)))
    known = any(finding.rank < CODE or finding.rank >= WAITS for finding in found)
    return Explanation(
        job=label,
        state="+".join(sorted({record.state for record in records})),
        findings=tuple(found),
        recognised=known or not found,
        look=(f"scontrol show job {job_id}",),
        next=f"scontrol show job {job_id}",
    )


def _unknown(records: list[JobRecord]) -> bool:
    return all(record.state == UNKNOWN for record in records)
