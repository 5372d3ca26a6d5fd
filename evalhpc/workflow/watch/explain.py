"""Why a run or one of its jobs went wrong: every trace that it left, the likeliest cause first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalhpc.core.quoting import shell_word
from evalhpc.models.base import Frozen
from evalhpc.slurm.jobs import JobRecord
from evalhpc.storage.atomic import read_jsonl
from evalhpc.workflow.faults.shard_failures import ShardFailure
from evalhpc.workflow.record.job_answers import JobAnswers
from evalhpc.workflow.record.jobs import Job
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.watch.findings import (
    CODE,
    WAITS,
    Finding,
    from_jobs,
    from_logs,
    from_outcomes,
    from_run,
    from_shard,
    from_text,
    placed,
)
from evalhpc.workflow.watch.log_evidence import LogEvidence, log_evidence
from evalhpc.workflow.watch.status import RunStatus, run_status


@dataclass(frozen=True)
class Target:
    """The whole run, or one job of it (`task`: of its array)."""

    job: Job | None = None
    task: int | None = None

    @property
    def label(self) -> str:
        """`123` or `123_4`; "" for the whole run."""
        if self.job is None:
            return ""
        return f"{self.job.id}" if self.task is None else f"{self.job.id}_{self.task}"

    @property
    def judges(self) -> bool:
        """Whether what the run says of itself was this job's to say."""
        return self.job is None or self.job.kind in ("planning", "collect", "driver")

    def records(self, known: Mapping[int, list[JobRecord]]) -> dict[int, list[JobRecord]]:
        """Slurm's records of the job, among those of all jobs."""
        if self.job is None:
            return dict(known)
        tasks = known.get(self.job.id, [])
        return {self.job.id: [r for r in tasks if self.task in (None, r.task_id)]}

    def has_log(self, path: Path) -> bool:
        """Whether a log is the job's own, or for a shard that of its servers."""
        if self.job is None or self.job.scheduler == "local":
            return True
        number = r"\d+" if self.task is None else str(self.task)
        patterns = [rf"\w+-{self.job.id}(_{number})?\.log"]
        if self.job.kind == "shard":
            patterns.append(rf"server.*-{self.job.round}-{number}(\.\d+)?\.log")
        elif self.judges:
            patterns.append(r"harness\.log")
        return re.fullmatch("|".join(patterns), path.name) is not None

    def has_shard(self, failed: ShardFailure) -> bool:
        """Whether a shard that failed was this job, or one of its tasks."""
        if self.job is None:
            return True
        ours = self.job.kind == "shard" and self.job.round == failed.round
        return ours and self.task in (None, failed.shard)


#: The whole run.
WHOLE = Target()


class Explanation(Frozen):
    """`evalhpc explain --json`: findings, the likeliest first."""

    run_id: str = ""
    run_dir: str = ""
    job: str = ""
    state: str
    scheduler: str = ""  # why Slurm's word is missing, if it is
    findings: tuple[Finding, ...] = ()
    recognised: bool = False  # a cause was found, or nothing is wrong
    look: tuple[str, ...] = ()  # where to look where nothing was recognised
    next: str = ""


def explain_run(run: Run, answers: JobAnswers, target: Target = WHOLE) -> Explanation:
    """What stopped the run, or only the job of it that is `target`."""
    status = run_status(run, answers if answers.slurm is not None else None)
    records = target.records(answers.known)
    evidence = log_evidence(run, target.has_log)
    found = placed(run, _findings(run, status, records, evidence, target))
    fine = status.state == "complete" or not (_stands(status) or found)
    known = (finding.rank < CODE or finding.rank >= WAITS for finding in found)
    return Explanation(
        run_id=status.run_id,
        run_dir=status.run_dir,
        job=target.label,
        state=status.state,
        scheduler=answers.why_not,
        findings=tuple(found),
        recognised=fine or any(known),
        look=_where_to_look(run, evidence),
        next=_next(status),
    )


def explain_status(
    run: Run, status: RunStatus, records: Mapping[int, Sequence[JobRecord]]
) -> Finding | None:
    """The likeliest cause of a run that stands still, for `status`; `records`: what Slurm said.

    Of one that goes on, why a job of it waits that will not start by itself.
    """
    if not _stands(status):
        held = [one for one in placed(run, from_jobs(_pending(records))) if one.rank < CODE]
        return held[0] if held else None
    found = placed(run, _findings(run, status, records, log_evidence(run), WHOLE))
    return found[0] if found and found[0].rank < CODE else None


def _pending(
    records: Mapping[int, Sequence[JobRecord]],
) -> dict[int, list[JobRecord]]:
    return {n: [task for task in tasks if task.state == "PENDING"] for n, tasks in records.items()}


def _stands(status: RunStatus) -> bool:
    return status.state in ("failed", "stalled") or status.failure is not None


def _findings(
    run: Run,
    status: RunStatus,
    records: Mapping[int, Sequence[JobRecord]],
    evidence: LogEvidence,
    target: Target,
) -> Iterator[Finding]:
    if status.state == "complete":
        return
    error = str((status.failure or {}).get("error", ""))
    yield from from_logs(evidence, error)
    yield from from_jobs(records)
    if target.judges:
        yield from from_run(run, status, error)
        yield from from_outcomes(run, status)
    for failed in filter(target.has_shard, status.failed_shards):
        yield from from_shard(failed)
    if target.job is None:
        reasons = {str(record.get("reason", "")) for record in read_jsonl(run.paths.failures)}
        yield from from_text("\n".join(sorted(reasons)), "a request", str(run.paths.failures))


def _where_to_look(run: Run, evidence: LogEvidence) -> tuple[str, ...]:
    files = [str(path) for path in evidence.read[:5]]
    more = [f"{evidence.unread} further logs in {run.paths.logs}"] if evidence.unread else []
    return (*files, *more)


def _next(status: RunStatus) -> str:
    root = shell_word(status.run_dir)
    if status.state == "complete":
        return f"evalhpc results {root}"
    if status.state in ("failed", "stalled", "cancelled"):
        return f"evalhpc resume {root}"
    return f"evalhpc status {root}"
