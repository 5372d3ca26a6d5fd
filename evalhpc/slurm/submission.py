"""One sbatch, exactly once: a submission whose answer was lost is looked for, never repeated.

sbatch can say "Socket timed out" for a job that the controller then accepts. So every submission
carries a token in its comment, and a job that bears the token is adopted.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence

from evalhpc.errors import ClusterError
from evalhpc.process import Finished
from evalhpc.slurm import commands, parsers, refusals
from evalhpc.slurm.runner import Runner

#: A request without an answer may wait in the controller's inbox: look so often, so far apart.
LOOKS, LOOK_SECONDS = 3, 3.0
#: What every token looks like.
_TOKEN = re.compile(r"evalhpc-[0-9a-f]{32}")


class LostJob(ClusterError):
    """Nobody can say whether Slurm took a job."""


class Submission:
    """`refused` makes the error of an sbatch that failed for good."""

    def __init__(self, runner: Runner, refused: Callable[[Finished], ClusterError]) -> None:
        self.token = f"evalhpc-{uuid.uuid4().hex}"
        self._runner = runner
        self._refused = refused
        self._tries = 0

    def submit(self, argv: Sequence[str]) -> int:
        """Run sbatch (with this token in its comment) until it is taken; returns the job id."""
        job_id = self._runner.patiently(lambda: self._once(argv))
        if self._tries > 1:
            # An earlier try may have surfaced after we stopped looking for it.
            self._cancel([twin for twin in self._marked_jobs() if twin != job_id])
        return job_id

    def withdraw(self) -> None:
        """Cancel whatever of this submission is in the queue: sbatch was cut off."""
        try:
            self._cancel(self._look())
        except KeyboardInterrupt as again:
            raise self._lost("interrupted before Slurm could be asked") from again

    def _once(self, argv: Sequence[str]) -> int:
        self._tries += 1
        done = self._runner.submit(argv)
        if done.returncode == 0:
            return parsers.parse_job_id(done.stdout)
        found = self._look() if refusals.may_be_taken(done) else []
        if found:
            return found[0]
        raise self._refused(done)

    def _look(self) -> list[int]:
        for look in range(LOOKS):
            if look:
                self._runner.sleep(LOOK_SECONDS)
            try:
                found = self._marked_jobs()
            except ClusterError as error:
                raise self._lost(error.what) from error
            if found:
                return found
        return []

    def _lost(self, why: str) -> LostJob:
        return LostJob(
            f"nobody can say whether Slurm took the job: {why}",
            cause="the controller went away while it was being asked, or you did not wait for it",
            hint=f"squeue --me --states=all -O JobID,Comment:90 | grep {self.token}; "
            "scancel the job if it is there, then submit again",
        )

    def _marked_jobs(self) -> list[int]:
        output = self._runner.query(commands.squeue_comments(), "cannot look for a submitted job")
        comments = parsers.parse_squeue_comments(output)
        return sorted({job for job, comment in comments if self.token in comment})

    def _cancel(self, job_ids: Sequence[int]) -> None:
        if job_ids:
            self._runner.read(commands.scancel(job_ids), "cannot cancel a repeated submission")


def is_marked(comment: str) -> bool:
    """Whether a job of this comment was submitted so, and not by hand."""
    return _TOKEN.search(comment) is not None


def marked(comment: str | None, token: str) -> str:
    """`comment` with the token in it; a JSON object stays one, because site tools may read it."""
    if not comment:
        return token
    try:
        value = json.loads(comment)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return json.dumps({**value, "evalhpc": token}, separators=(",", ":"))
    return f"{comment} {token}"
