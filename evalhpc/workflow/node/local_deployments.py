"""The deployment jobs of a local run, beside the scripts of its rounds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from evalhpc import process
from evalhpc.workflow.record.jobs import process_start, record_job
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.tokens import make_token
from evalhpc.workflow.serve.shared import call_answered, forget
from evalhpc.workflow.submit.local import GRACE

if TYPE_CHECKING:
    import subprocess  # for an annotation: only `process` runs commands


class LocalDeployments:
    """The deployment jobs of a run, beside the scripts of its rounds."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def see_to(self, round_: int) -> None:
        """Start those that have ended, or are about to, so that a round finds them all."""
        run = self._run
        jobs = range(run.spec.site.deploy.jobs if run.spec.shares_deployment else 0)
        if jobs:
            make_token(run)
        if self._running() and not call_answered(run):
            self.stop()
        for job in jobs:
            if job not in self._running():
                self._start(job, round_)

    def stop(self) -> None:
        """End them all, side by side."""
        for child in self._running().values():
            child.terminate()
        for child in self._children.values():
            process.stop(child, grace=GRACE)
        self._children.clear()

    def _running(self) -> dict[int, subprocess.Popen[bytes]]:
        return {job: child for job, child in self._children.items() if child.poll() is None}

    def _start(self, job: int, round_: int) -> None:
        paths = self._run.paths
        forget(self._run, job)
        if job in self._children:
            process.stop(self._children[job], grace=GRACE)  # what it has left behind
        child = process.start(
            ["bash", str(paths.script("deploy"))],
            log=paths.log(f"deploy-{job}.log"),
            env={**process.scrubbed(os.environ), "EVALHPC_JOB": str(job)},
            tied=True,
        )
        self._children[job] = child
        record_job(paths, "deploy", child.pid, round_, "local", started=process_start(child.pid))
