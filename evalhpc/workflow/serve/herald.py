"""A deployment job's word to the shards: with each beat, from the start of its load to its end."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from evalhpc.errors import EvalhpcError
from evalhpc.storage.atomic import is_there
from evalhpc.workflow.record.pulse import Pulse
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import Interrupted, Received
from evalhpc.workflow.record.tokens import token_name
from evalhpc.workflow.serve.shared import Published, last_call, publish, published

#: What ends a deployment job that was asked to end.
_ASKED_TO_END = (Interrupted, Received)


class Herald:
    """Publishes one start of job `job`; `called` is when it last promised to stay (monotonic)."""

    def __init__(self, run: Run, job: int) -> None:
        self._run = run
        self._token = token_name(run)
        self._said = Published(job=job, start=secrets.token_hex(8), node=node_name())
        self._lock = threading.Lock()
        self._pulse = Pulse(self._beat)
        self._leaving = False
        self.superseded = False  # by a later start of the same job
        self.called = time.monotonic()

    def __enter__(self) -> Herald:
        publish(self._run, self._said)
        self._pulse.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._pulse.stop()
        if not self.superseded:
            why = self._said.ended or _why(error)
            interrupted = isinstance(error, _ASKED_TO_END)
            end = {"ended": why, "interrupted": interrupted}
            publish(self._run, self._said.model_copy(update=end))

    @property
    def dismissed(self) -> bool:
        """Whether the run is over, or has another token than the one that is served with."""
        return is_over(self._run) or token_name(self._run) != self._token

    def serves(self, urls: Mapping[str, str]) -> None:
        """From now on shards may ask there."""
        with self._lock:
            self._said = self._said.model_copy(update={"urls": dict(urls)})
        self._beat()

    def leave(self, why: str) -> bool:
        """Say that the job ends; False, and nothing said, where a call has come meanwhile."""
        with self._lock:
            if self._call() != self._said.call:
                return False
            self._leaving = True
            self._said = self._said.model_copy(update={"ended": why})
            return True

    def silence(self) -> None:
        """Answer no call any more: the job is about to end."""
        with self._lock:
            self._leaving = True

    def _beat(self) -> None:
        with self._lock:
            before = published(self._run, self._said.job)
            if before is not None and before.start != self._said.start:
                self.superseded = True
            if self._leaving or self.superseded:
                return
            call = self._call()
            if call != self._said.call:
                self.called = time.monotonic()
            update = {"beat": self._said.beat + 1, "call": call}
            self._said = self._said.model_copy(update=update)
            publish(self._run, self._said)

    def _call(self) -> str:
        """The last call that is for us: for jobs with our token."""
        call = last_call(self._run)
        return call if call.partition(".")[0] == self._token else self._said.call


def is_over(run: Run) -> bool:
    """Whether the run needs no model any more, unless somebody resumes it."""
    paths = run.paths
    return any(map(is_there, (paths.certificate, paths.cancelled, paths.failure)))


def _why(error: BaseException | None) -> str:
    if error is None:
        return "the run is over"
    if isinstance(error, _ASKED_TO_END):
        return f"it was asked to end ({error}): cancelled, preempted, or near its walltime"
    return error.what if isinstance(error, EvalhpcError) else f"a bug of evalhpc: {error!r}"


def node_name() -> str:
    """This node, as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename
