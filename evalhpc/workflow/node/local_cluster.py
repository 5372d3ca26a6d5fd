"""Batch scripts side by side on this machine, by submitit's LocalExecutor."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from evalhpc.workflow.faults.passing import await_room
from evalhpc.workflow.node.script_call import ScriptCall, call_script
from evalhpc.workflow.record.jobs import process_start, record_job
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import Interrupted, interruptible

log = logging.getLogger(__name__)

#: LocalExecutor wants a limit; a local run has no walltime, so: a month, in minutes.
_NO_LIMIT = 60 * 24 * 30
_POLL = 0.1


class LocalCluster:
    """Runs script calls at the same time; a signal to this process reaches every script."""

    def __init__(self, run: Run) -> None:
        # Imported late: submitit costs 90 ms, and only the driver needs it.
        from submitit import LocalExecutor

        self._run = run
        self._executor = LocalExecutor(folder=run.paths.log("submitit"))
        self._executor.update_parameters(timeout_min=_NO_LIMIT)
        self._signalled = False
        self._running: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)

    def run(self, calls: Sequence[ScriptCall], again: str = "") -> list[int]:
        """Exit codes of the calls, in order; raises Interrupted when a signal came.

        `again`: why they are run once more.
        """
        with interruptible():  # nothing runs that a signal would have to reach
            if self._signalled:
                raise Interrupted("asked to end")
            await_room(self._run)
        jobs = self._executor.map_array(call_script, list(calls))
        self._running = [int(job.job_id) for job in jobs]
        for job in jobs:
            # submitit gives a network file system 15 s to show a result; this one is written here.
            job._results_timeout_s = 1
        try:
            self._record(calls, again)
        except BaseException:
            self._pass_on(signal.SIGTERM, None)  # what nobody knows of cannot be cancelled
            self._wait(jobs)
            raise
        if self._signalled:
            self._pass_on(signal.SIGTERM, None)
        self._wait(jobs)
        if self._signalled:
            raise Interrupted("asked to end")
        return [self._code(job) for job in jobs]

    def _record(self, calls: Sequence[ScriptCall], again: str) -> None:
        for call, pid in zip(calls, self._running, strict=True):
            record_job(
                self._run.paths, call.kind, pid, call.round, "local",
                started=process_start(pid), offset=call.shard, again=again,
            )  # fmt: skip

    def _wait(self, jobs: Sequence[Any]) -> None:
        while not all(job.done() for job in jobs):
            time.sleep(_POLL)
        self._running = []

    def _code(self, job: object) -> int:
        try:
            return int(job.result())  # type: ignore[attr-defined]  # submitit is untyped here
        except Exception as error:
            # submitit raises its own types, and re-raises whatever the task did.
            log.error("a local job ended without a result: %s", error)
            return 1

    def _pass_on(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True
        for pid in self._running:
            if process_start(pid):
                os.kill(pid, signal.SIGTERM)
