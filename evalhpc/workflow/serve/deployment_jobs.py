"""Which deployment jobs live, as one shard sees them: by their beats, and by Slurm's word on those
that were interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from evalhpc.errors import ClusterError, EndpointError
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.states import UNKNOWN
from evalhpc.workflow.record.jobs import Job, recorded_jobs
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.shared import Published, all_published

#: Seconds between two questions to Slurm about jobs that were interrupted.
ASK = 15.0


class DeploymentJobs:
    """What the jobs of a run published, look by look; no two clocks are compared."""

    def __init__(self, run: Run, shard: int) -> None:
        self._run = run
        self._order = preferred(shard, run.spec.site.deploy.jobs)
        self._first: dict[int, Published] = {}
        self._last: dict[int, Published] = {}
        self._moved: dict[int, float] = {}
        self._suspect: dict[int, Published] = {}
        self._asked: dict[int, tuple[float, bool]] = {}

    def look(self) -> None:
        """Read what they say now; raises IntegrityError for a damaged record."""
        for record in all_published(self._run):
            self._first.setdefault(record.job, record)
            if self._last.get(record.job) != record:
                self._last[record.job], self._moved[record.job] = record, time.monotonic()

    def serving(self) -> list[Published]:
        """Those that serve and were seen to live, the one that this shard is to ask first."""
        return [record for job in self._order if (record := self._serves(job)) is not None]

    def _serves(self, job: int) -> Published | None:
        record = self._last.get(job)
        if record is None or not record.urls or record.ended or self._is_silent(job):
            return None
        # What a killed job left behind stands still; so does one that fails us.
        standing = (self._first[job], self._suspect.get(job))
        return None if record in standing else record

    def suspect(self, job: int) -> None:
        """It failed a request: it counts as dead until its next beat."""
        if job in self._last:
            self._suspect[job] = self._last[job]

    def gone(self) -> list[Published]:
        """Those that ended for good: nobody starts them again."""
        ended = (record for record in self._last.values() if record.ended)
        return [r for r in ended if not (r.interrupted and self._may_return(r.job))]

    def death(self, chosen: Published) -> EndpointError | None:
        """Why `chosen` can be asked no more, if so."""
        now = self._last.get(chosen.job, chosen)
        if now.start != chosen.start:
            return EndpointError(f"deployment job {now.job} was started anew", transient=True)
        if now.ended:
            return ended(now)
        if self._is_silent(now.job):
            return EndpointError(
                f"deployment job {now.job} on {now.node} went silent",
                cause="its node died, or the job was killed",
                hint=f"evalhpc status {self._run.word}",
                transient=True,
            )
        return None

    def _is_silent(self, job: int) -> bool:
        since = self._moved.get(job, time.monotonic())
        return time.monotonic() - since > self._run.spec.run.lease_timeout

    def _may_return(self, job: int) -> bool:
        """Whether Slurm has it in the queue again, or will; asked every `ASK` seconds."""
        asked, answer = self._asked.get(job, (0.0, False))
        if job not in self._asked or time.monotonic() - asked > ASK:
            answer = _is_to_come(self._run, job)
            self._asked[job] = time.monotonic(), answer
        return answer


def preferred(shard: int, jobs: int) -> list[int]:
    """The jobs in the order in which a shard asks them: as many shards to each, and what one that
    ended leaves to as many of the others as there are."""
    own = shard % jobs
    others = [job for job in range(jobs) if job != own]
    turn = shard // jobs % max(1, len(others))
    return [own, *others[turn:], *others[:turn]]


def ended(record: Published) -> EndpointError:
    """What became of a deployment job, for those that asked it."""
    return EndpointError(
        f"deployment job {record.job} on {record.node} ended: {record.ended}",
        cause="see the end of its log",
        hint="evalhpc logs RUN --kind deploy",
        transient=record.interrupted,
    )


def _is_to_come(run: Run, job: int) -> bool:
    """Whether an interrupted job is still Slurm's to start; yes where it does not say."""
    ids = [known.id for known in _submitted(run)]
    if not ids:
        return False
    try:
        tasks = Slurm(env=os.environ, attempts=1).jobs(ids[-1:])[ids[-1]]
    except (ClusterError, OSError):
        return True
    own = [task for task in tasks if task.task_id in (None, job)]
    return any(not task.terminal and task.state != UNKNOWN for task in own)


def _submitted(run: Run) -> Iterator[Job]:
    jobs = recorded_jobs(run.paths)
    return (job for job in jobs if job.kind == "deploy" and job.scheduler == "slurm")
