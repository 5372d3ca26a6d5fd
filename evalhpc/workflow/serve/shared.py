"""Deployment jobs as shards and collectors see them: where they are, and whether they live."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from pydantic import Field

from evalhpc.deploy.readiness import wait_ready
from evalhpc.errors import EndpointError
from evalhpc.models.base import Frozen
from evalhpc.storage.atomic import write_text
from evalhpc.workflow.record.pulse import BEAT
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.tokens import read_token, token_name

#: Seconds between two looks at a deployment job.
LOOK = 1.0
#: Seconds after which a job that lives has beaten, and has answered a call.
SETTLED = 3 * BEAT


class Published(Frozen):
    """What a deployment job says of itself, anew with each beat."""

    job: int
    start: str  # tells a restarted job from its first run
    node: str
    urls: dict[str, str] = Field(
        default={}
    )  # endpoint → base URL, which ends in /v1; empty while they load
    beat: int = 0
    call: str = ""  # the last one that it has heard
    ended: str = ""  # why, once it has
    interrupted: bool = False  # it was asked to end: Slurm may start it again


def publish(run: Run, published: Published) -> None:
    """Make it known to every shard."""
    path = run.paths.deployment(published.job)
    write_text(path, published.model_dump_json(), sync=False)


def published(run: Run, job: int) -> Published | None:
    """What this job last said; None where it has said nothing yet. IntegrityError if damaged."""
    try:
        return read_record(run.paths.deployment(job), Published)
    except FileNotFoundError:
        return None


def forget(run: Run, job: int) -> None:
    """Before a job is started: what an earlier one said is no news of it."""
    run.paths.deployment(job).unlink(missing_ok=True)


def last_call(run: Run) -> str:
    """What collectors last called out; it names the token that the answering job must have."""
    try:
        return run.paths.deployment_call.read_text()
    except FileNotFoundError:
        return ""


def call_answered(run: Run) -> bool:
    """Whether a deployment job says that it stays: from then on it lingers anew.

    Without that, one could end for want of requests between a look at it and the next round.
    """
    call = f"{token_name(run)}.{secrets.token_hex(8)}"
    write_text(run.paths.deployment_call, call)
    deadline = time.monotonic() + SETTLED
    while time.monotonic() < deadline:
        if any(record.call == call and not record.ended for record in _all(run)):
            return True
        time.sleep(LOOK / 4)
    return False


class SharedReplica:
    """One endpoint of the run's deployment jobs, as one shard asks it."""

    def __init__(self, run: Run, shard: int, name: str) -> None:
        self._run = run
        self._shard = shard
        self._name = name
        self._chosen: Published | None = None
        self._looked = self._moved = 0.0

    def start(self) -> None:
        """Its job was submitted with the shards."""

    def ready(self) -> tuple[tuple[str, ...], str]:
        """(its URL, the token), proved by a real request; raises EndpointError."""
        deadline = time.monotonic() + self._run.spec.run.ready_timeout
        self._chosen = self._await(deadline)
        self._moved = self._looked = time.monotonic()
        url, token = self._chosen.urls[self._name], read_token(self._run)
        served = self._run.spec.served()[self._name]
        for kind in served.kinds:
            wait_ready(
                url,
                served.model.model_id,
                kind=kind,
                token=token,
                deadline=max(1.0, deadline - time.monotonic()),
                alive=self._alive,
            )
        return (url,), token

    def death(self) -> EndpointError | None:
        """Why its job is no longer there, once it was."""
        if self._chosen is None or time.monotonic() - self._looked < LOOK:
            return None
        self._looked = time.monotonic()
        now = published(self._run, self._chosen.job)
        if now is not None and now.start != self._chosen.start:
            return EndpointError(f"deployment job {now.job} was started anew", transient=True)
        if now is not None and now.ended:
            return _ended(now)
        if now is not None and now != self._chosen:
            self._chosen, self._moved = now, time.monotonic()
        if time.monotonic() - self._moved > self._run.spec.run.lease_timeout:
            return EndpointError(
                f"deployment job {self._chosen.job} on {self._chosen.node} went silent",
                cause="its node died, or the job was killed",
                hint=f"evalhpc status {self._run.word}",
                transient=True,
            )
        return None

    def _alive(self) -> None:
        """Raises what `death` says."""
        if (error := self.death()) is not None:
            raise error

    def stop(self) -> None:
        """It serves other shards too."""

    def _await(self, deadline: float) -> Published:
        """A deployment job that was seen to live, another one for each shard in turn."""
        jobs = self._run.spec.site.deploy.jobs
        first: dict[int, Published] = {}
        begin = time.monotonic()
        while True:
            records = list(_all(self._run))
            for record in records:
                first.setdefault(record.job, record)
            alive = [r for r in records if r.urls and not r.ended and r != first[r.job]]
            ended = [record for record in records if record.ended]
            # The first to beat is not the only one that does.
            if alive and (len(alive) + len(ended) == jobs or time.monotonic() - begin > SETTLED):
                return alive[self._shard % len(alive)]
            if len(ended) == jobs:
                raise _ended(ended[0])
            if time.monotonic() > deadline:
                raise self._never_ready()
            time.sleep(LOOK / 2)

    def _never_ready(self) -> EndpointError:
        return EndpointError(
            f"no deployment job of this run was ready within "
            f"{self._run.spec.run.ready_timeout:g} s",
            cause="it waits in the queue, ended without a word, or its model is still loading",
            hint=f"evalhpc status {self._run.word}, or raise run.ready_timeout",
            transient=True,
        )


def _ended(record: Published) -> EndpointError:
    return EndpointError(
        f"deployment job {record.job} on {record.node} ended: {record.ended}",
        cause="see the end of its log",
        hint="evalhpc logs RUN --kind deploy",
        transient=record.interrupted,
    )


def _all(run: Run) -> Iterator[Published]:
    for job in range(run.spec.site.deploy.jobs):
        record = published(run, job)
        if record is not None:
            yield record
