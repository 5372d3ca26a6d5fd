"""One endpoint of the run's deployment jobs, as one shard asks it: of that job which lives."""

from __future__ import annotations

import logging
import time

from evalhpc.deploy.readiness import wait_ready
from evalhpc.errors import EndpointError
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.tokens import read_token
from evalhpc.workflow.serve.deployment_jobs import DeploymentJobs, ended
from evalhpc.workflow.serve.shared import LOOK, SETTLED, Published

log = logging.getLogger(__name__)


class SharedReplica:
    """Asks the job that is this shard's by number; another one while that is not there."""

    def __init__(self, run: Run, shard: int, name: str) -> None:
        self._run = run
        self._shard = shard
        self._name = name
        self._jobs = DeploymentJobs(run, shard)
        self._chosen: Published | None = None
        self._looked = 0.0
        self._dead: EndpointError | None = None

    def start(self) -> None:
        """Its job was submitted with the shards."""

    def ready(self) -> tuple[tuple[str, ...], str]:
        """(its URL, the token), proved by a real request; raises EndpointError."""
        deadline = time.monotonic() + self._run.spec.run.ready_timeout
        self._chosen = self._await(deadline)
        self._looked = time.monotonic()
        while True:
            url, token = self.url(), read_token(self._run)
            try:
                self._prove(url, token, deadline)
            except EndpointError:
                if self.url() == url or time.monotonic() > deadline:
                    raise
            else:
                return (url,), token

    def _prove(self, url: str, token: str, deadline: float) -> None:
        def alive() -> None:
            if (error := self.death()) is not None:
                raise error
            if self.url() != url:
                raise EndpointError(f"{url} is not there any more", transient=True)

        served = self._run.spec.served()[self._name]
        for kind in served.kinds:
            wait_ready(
                url,
                served.model.model_id,
                kind=kind,
                token=token,
                deadline=max(1.0, deadline - time.monotonic()),
                alive=alive,
            )

    def url(self) -> str:
        """Where it is asked at the moment; only once it was ready."""
        if self._chosen is None:
            raise RuntimeError("asked before it was ready")
        return self._chosen.urls[self._name]

    def moved_from(self, url: str) -> bool:
        """After a failure at `url`: whether another job is asked from now on."""
        if self._chosen is not None and self.url() == url:
            self._jobs.look()
            self._jobs.suspect(self._chosen.job)
            self._choose(self._jobs.serving())
        return self.url() != url

    def death(self) -> EndpointError | None:
        """Why its job is no longer there, once it was, and no other that could be asked."""
        if self._chosen is not None and time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            self._jobs.look()
            serving = self._jobs.serving()
            self._choose(serving)
            self._dead = None if serving else self._jobs.death(self._chosen)
        return self._dead  # also between two looks: whoever asks asks again before it counts

    def stop(self) -> None:
        """It serves other shards too."""

    def _choose(self, serving: list[Published]) -> None:
        """The first of those that serve; whoever is alone stays."""
        before, self._chosen = self._chosen, serving[0] if serving else self._chosen
        if before and self._chosen and (before.job, before.urls) != (
            self._chosen.job, self._chosen.urls,
        ):  # fmt: skip
            log.info("from now on deployment job %d is asked, not %d", self._chosen.job, before.job)

    def _await(self, deadline: float) -> Published:
        """A deployment job that was seen to live; one that Slurm will start again is waited for."""
        jobs = self._run.spec.site.deploy.jobs
        begin = time.monotonic()
        while True:
            self._jobs.look()
            serving, gone = self._jobs.serving(), self._jobs.gone()
            # The first to beat is not the only one that does; those that come later are found.
            if serving and (len(serving) + len(gone) == jobs or time.monotonic() - begin > SETTLED):
                return serving[0]
            if len(gone) == jobs:
                raise ended(gone[0])
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
