"""Deployment jobs as shards see them: where they publish themselves, and who may ask them."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from evalhpc.deploy.readiness import wait_ready
from evalhpc.errors import EndpointError, IntegrityError
from evalhpc.models.base import Frozen
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.workflow.records import read_record
from evalhpc.workflow.run import Run

#: Seconds between two beats of a deployment job, and between two looks at one.
BEAT = 2.0
LOOK = 1.0


class Published(Frozen):
    """What a deployment job says of itself, anew with each beat."""

    job: int
    start: str  # tells a restarted job from its first run
    node: str
    urls: dict[str, str]  # endpoint → base URL, which ends in /v1
    beat: int
    error: str = ""  # why it ended, if it failed


def publish(run: Run, published: Published) -> None:
    """Make it known to every shard."""
    path = run.paths.deployment(published.job)
    write_text(path, published.model_dump_json(), sync=False)


def token_path(run: Run) -> Path:
    """The file that holds the token of a run's deployment jobs: in the user's home, mode 0600.

    Not in the run directory, which people share and archive.
    """
    return Path("~/.local/state/evalhpc/tokens").expanduser() / run.hash


def make_token(run: Run) -> None:
    """Write a token for this run, unless it has one."""
    path = token_path(run)
    with storage_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            write_text(path, secrets.token_hex(24))


def drop_token(run: Run) -> None:
    """Forget the token of a run that has ended."""
    with storage_errors(token_path(run)):
        token_path(run).unlink(missing_ok=True)


def read_token(run: Run) -> str:
    """The token; raises EndpointError where this node does not see it."""
    path = token_path(run)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise EndpointError(
            f"the token of this run's deployment jobs cannot be read: {path}: {error.strerror}",
            cause="this node does not see the home directory of the submitting one, or the run "
            "has ended",
            hint=f"ls -l {path} here and on the login node; or --set deploy.topology=shard",
        ) from error


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
            )
        return (url,), token

    def death(self) -> EndpointError | None:
        """Why its job is no longer there, once it was."""
        if self._chosen is None or time.monotonic() - self._looked < LOOK:
            return None
        self._looked = time.monotonic()
        now = _read(self._run, self._chosen.job)
        if now is not None and now.error:
            return _ended(now)
        if now is not None and now != self._chosen and now.start == self._chosen.start:
            self._chosen, self._moved = now, time.monotonic()
        if now is not None and now.start != self._chosen.start:
            return EndpointError(f"deployment job {now.job} was started anew", transient=True)
        if time.monotonic() - self._moved > self._run.spec.run.lease_timeout:
            return EndpointError(
                f"deployment job {self._chosen.job} on {self._chosen.node} went silent",
                cause="its node died, or the job was cancelled or ran out of time",
                hint=f"evalhpc status {self._run.paths.root}",
                transient=True,
            )
        return None

    def stop(self) -> None:
        """It serves other shards too."""

    def _await(self, deadline: float) -> Published:
        """A deployment job that was seen to live, another one for each shard in turn."""
        first = {record.job: record for record in _all(self._run)}
        while True:
            time.sleep(LOOK)
            records = list(_all(self._run))
            alive = [r for r in records if not r.error and r != first.get(r.job)]
            if alive:
                return alive[self._shard % len(alive)]
            failed = [record for record in records if record.error]
            if len(failed) == self._run.spec.site.deploy.jobs:
                raise _ended(failed[0])
            if time.monotonic() > deadline:
                raise EndpointError(
                    f"no deployment job of this run was ready within "
                    f"{self._run.spec.run.ready_timeout:g} s",
                    cause="it waits in the queue, or its model is still loading",
                    hint=f"evalhpc status {self._run.paths.root}, or raise run.ready_timeout",
                    transient=True,
                )


def _ended(record: Published) -> EndpointError:
    return EndpointError(
        f"deployment job {record.job} on {record.node} ended: {record.error}",
        cause="see its log",
        hint="evalhpc logs RUN",
    )


def _all(run: Run) -> Iterator[Published]:
    for job in range(run.spec.site.deploy.jobs):
        record = _read(run, job)
        if record is not None:
            yield record


def _read(run: Run, job: int) -> Published | None:
    path = run.paths.deployment(job)
    try:
        return read_record(path, Published) if path.exists() else None
    except (IntegrityError, ValidationError) as error:
        raise EndpointError(f"{path} cannot be read: {error}", hint=f"rm {path}") from error


def node_name() -> str:
    """This node, as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename
