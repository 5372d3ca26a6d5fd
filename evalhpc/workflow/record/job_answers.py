"""What Slurm says of a run's jobs, asked once; and a run that can be explained without it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from evalhpc.errors import ClusterError
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import JobRecord
from evalhpc.workflow.record.jobs import recorded_jobs, slurm_ids
from evalhpc.workflow.record.run import Run

#: Tries of a question whose answer is welcome, but not waited for: squeue itself tries for seconds.
_ATTEMPTS = 1


class JobAnswers:
    """Slurm's records of jobs by their submitted ids; without Slurm, why it is missing."""

    def __init__(self, slurm: Slurm | None, ids: Iterable[int], why_not: str = "") -> None:
        """One question for all `ids`; a controller that is down leaves its words in `why_not`."""
        self.slurm = slurm
        self.why_not = why_not
        self.known: dict[int, list[JobRecord]] = {}
        try:
            self.known = slurm.jobs(ids) if slurm is not None else {}
        except ClusterError as error:
            self.slurm, self.why_not = None, error.what

    def jobs(self, job_ids: Iterable[int]) -> dict[int, list[JobRecord]]:
        """What is known of these; like the gate's verb of that name."""
        return {number: self.known.get(number, [JobRecord(number)]) for number in job_ids}


def ask(run: Run, slurm: Slurm | None = None, *further: int) -> JobAnswers:
    """Ask once about all Slurm jobs of the run, and `further` ones; a local run has none."""
    ids = [*slurm_ids(recorded_jobs(run.paths)), *further]
    if run.spec.site.scheduler != "slurm" or not ids:
        return JobAnswers(None, ())
    try:
        asked = slurm or impatient()
    except ClusterError as error:
        return JobAnswers(None, (), error.what)
    return JobAnswers(asked, ids)


def impatient() -> Slurm:
    """The cluster whose commands are on PATH, given up soon where it does not answer."""
    slurm = Slurm(env=os.environ, attempts=_ATTEMPTS)
    slurm.available()
    return slurm
