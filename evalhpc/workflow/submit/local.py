"""The `local` site: the same batch scripts as on a cluster, run through submitit's LocalExecutor.

A driver process stands in for Slurm's dependencies: planning, then array and collector in turn.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from evalhpc import process
from evalhpc.errors import EvalhpcError, FutileError
from evalhpc.workflow.collect.collect import note_failure, wants_array
from evalhpc.workflow.faults.passing import await_room
from evalhpc.workflow.record.jobs import AGAIN, launched, may_again, process_start, record_job
from evalhpc.workflow.record.rounds import load_plan, planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import INTERRUPTED, Interrupted
from evalhpc.workflow.record.tokens import drop_token, make_token
from evalhpc.workflow.serve.herald import is_over
from evalhpc.workflow.serve.shared import call_answered, forget
from evalhpc.workflow.submit.script_call import ScriptCall, call_script

if TYPE_CHECKING:
    import subprocess  # for an annotation: only `process` runs commands

log = logging.getLogger(__name__)

#: Seconds that a script gets to end in good order; above shard.LAST_WORDS.
GRACE = 25.0
#: LocalExecutor wants a limit; a local run has no walltime, so: a month, in minutes.
_NO_LIMIT = 60 * 24 * 30
_POLL = 0.1
#: Above it, an exit code names the signal that ended a script.
_SIGNALLED = 128


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


def start_driver(run: Run, *, first: str) -> int:
    """Start the run's driver in the background, from `first` on; returns its process id."""
    command = [run.spec.python, "-m", "evalhpc", "node", "drive", "--run-dir", str(run.paths.root)]
    child = process.start(
        [*command, "--from", first],
        log=run.paths.log("driver.log"),
        env=process.scrubbed(os.environ),
    )
    try:
        record_job(run.paths, "driver", child.pid, 0, "local", started=process_start(child.pid))
    except BaseException:
        process.stop(child)  # what nobody knows of cannot be cancelled
        raise
    return child.pid


def drive(run: Run, first: str) -> int:
    """What the driver does until the run is complete, cancelled or at an end; its exit code."""
    cluster = LocalCluster(run)
    try:
        if first == "planning":
            code = _outlived(run, cluster, "planning", 0)
            if code != 0:
                return code
        elif first == "collect":
            return _collect_on(run, cluster)
        return _rounds(run, cluster)
    except Interrupted:
        return INTERRUPTED
    except EvalhpcError as error:
        note_failure(run, error)
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        drop_token(run)


def _rounds(run: Run, cluster: LocalCluster) -> int:
    """Array and collector, until the collector plans no further round."""
    with _deployments(run) as deployments:
        while True:
            round_ = _last_round(run)
            deployments.see_to(round_)
            codes = cluster.run(
                [_call(run, "shard", round_, shard) for shard in range(_tasks(run, round_))],
                "its shards ended before they began" if launched(run.paths, round_) else "",
            )
            for shard, code in enumerate(codes):
                if code:
                    log.warning("shard %d of round %d ended with code %d", shard, round_, code)
            code, more = _collect(run, cluster)
            if not more:
                return code


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


@contextmanager
def _deployments(run: Run) -> Iterator[LocalDeployments]:
    deployments = LocalDeployments(run)
    try:
        yield deployments
    finally:
        deployments.stop()


def _collect_on(run: Run, cluster: LocalCluster) -> int:
    """A resumed run: the collector first, which plans what is missing."""
    code, more = _collect(run, cluster)
    return _rounds(run, cluster) if more else code


def _collect(run: Run, cluster: LocalCluster) -> tuple[int, bool]:
    """Exit code of the collector, and whether it wants another array."""
    code = _outlived(run, cluster, "collect", _last_round(run))
    if code != 0 or run.paths.certificate.exists() or run.paths.cancelled.exists():
        return code, False
    return code, wants_array(run, _last_round(run))


def _outlived(run: Run, cluster: LocalCluster, kind: str, round_: int) -> int:
    """Exit code of a script that is run again where a signal ended it, and not by our wish.

    Raises FutileError where that goes on.
    """
    again = ""
    while True:
        code = cluster.run([_call(run, kind, round_)], again)[0]
        if not _was_ended(code) or is_over(run):
            return code
        if not may_again(run.paths, round_, kind):
            raise FutileError(
                f"not begun again: the {kind} script was ended by a signal {1 + AGAIN} times "
                f"(exit code {code})",
                cause="killed by somebody, or for want of memory",
                hint=f"evalhpc logs {run.word} --kind {kind}, then: evalhpc resume {run.word}",
            )
        again = f"the {kind} script before it was ended by a signal (exit code {code})"
        log.warning("%s: it is run again", again)


def _was_ended(code: int) -> bool:
    return code < 0 or code > _SIGNALLED or code == INTERRUPTED


def _last_round(run: Run) -> int:
    """The round that is next to be answered; 1 before anything was planned."""
    return max(planned_rounds(run), default=1)


def _tasks(run: Run, round_: int) -> int:
    """How many shards a round is worth: no more than it has units."""
    if not planned_rounds(run):
        return run.first_tasks
    return min(run.spec.run.shards, max(1, len(load_plan(run, round_).units)))


def _call(run: Run, kind: str, round_: int = 0, shard: int = 0) -> ScriptCall:
    name = f"{kind}-{round_}-{shard}.log" if kind == "shard" else f"{kind}-{round_}.log"
    return ScriptCall(kind, round_, str(run.paths.script(kind)), str(run.paths.log(name)), shard)
