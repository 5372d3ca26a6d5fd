"""The models beside a worker: started from their scripts, proved by real completions."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalhpc import process
from evalhpc.deploy.access import TOKEN_VARIABLE
from evalhpc.deploy.readiness import server_ended, wait_ready
from evalhpc.errors import EndpointError
from evalhpc.http.client import HttpClient
from evalhpc.models.checkpoint import Model
from evalhpc.storage.atomic import write_text
from evalhpc.workflow.run import Run

if TYPE_CHECKING:
    import subprocess  # for an annotation: only `process` runs commands

log = logging.getLogger(__name__)
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Endpoint:
    """Where a worker asks, with the bearer token it sends (None: none)."""

    url: str  # ends in /v1
    token: str | None


class Replicas:
    """The models of one shard, by endpoint: started at most once, ended with the block."""

    def __init__(self, run: Run, round_: int, shard: int) -> None:
        self._replicas = {name: Replica(run, round_, shard, name) for name in run.spec.served()}

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self._replicas.values():
            replica.stop()

    def start(self) -> None:
        """Start all of them in the background."""
        for replica in self._replicas.values():
            replica.start()

    def ready(self, endpoints: Iterable[str] | None = None) -> dict[str, Endpoint]:
        """Those endpoints (None: all), each proved by a real request; raises EndpointError."""
        wanted = list(self._replicas if endpoints is None else endpoints)
        for name in wanted:
            self._replicas[name].start()  # so that they load at the same time
        return {name: self._replicas[name].ready() for name in wanted}

    def death(self) -> EndpointError | None:
        """Why the first server ended that has; None while all that were started run."""
        deaths = (replica.death() for replica in self._replicas.values())
        return next((error for error in deaths if error is not None), None)


class Replica:
    """The model of one endpoint in one shard: started at most once, proved before use."""

    def __init__(self, run: Run, round_: int, shard: int, name: str) -> None:
        self._run = run
        self._name = name
        self._served = run.spec.served()[name]
        self._script = run.paths.server_script(name)
        self._record = run.paths.endpoint(round_, shard, name)
        self._log = run.paths.server_log(round_, shard, name)
        self._child: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._token = secrets.token_hex(24)
        self._ready: Endpoint | None = None

    def stop(self) -> None:
        """End the server, if it was started."""
        if self._child is not None:
            process.stop(self._child)

    def start(self) -> None:
        """Start the server in the background; an endpoint that is already up needs nothing."""
        if self._child is not None or self._served.model.url is not None:
            return
        self._port = _free_port()
        env = {
            **os.environ,
            "EVALHPC_HOST": _HOST,
            "EVALHPC_PORT": str(self._port),
            "EVALHPC_SERVER_TOKEN": self._token,
        }
        log.info("starting the server of %s, its log is %s", self._name, self._log)
        self._child = process.start(["bash", str(self._script)], log=self._log, env=env)

    def ready(self) -> Endpoint:
        """The endpoint, proved by a real request the first time; raises EndpointError."""
        if self._ready is None:
            self._ready = self._proved()
        return self._ready

    def death(self) -> EndpointError | None:
        """Why the server ended, if it was started here and has."""
        code = None if self._child is None else self._child.poll()
        if code is None:
            return None
        url = f"http://{_HOST}:{self._port}/v1"
        return server_ended(url, code, self._log, self._token, when="while the shard was at work")

    def _proved(self) -> Endpoint:
        if self._served.model.url is not None:
            endpoint = Endpoint(self._served.model.url, _outside_key(self._served.model))
            self._prove(endpoint, None)
            return endpoint
        self.start()
        endpoint = Endpoint(f"http://{_HOST}:{self._port}/v1", self._token)
        self._prove(endpoint, self._log)
        self._publish()
        return endpoint

    def _prove(self, endpoint: Endpoint, log_file: Path | None) -> None:
        """Readiness is a real request of every kind that the benchmarks will make."""
        for kind in self._served.kinds:
            wait_ready(
                endpoint.url,
                self._served.model.model_id,
                kind=kind,
                token=endpoint.token,
                deadline=self._run.spec.run.ready_timeout,
                alive=(lambda: None) if self._child is None else self._child.poll,
                log=log_file,
                token_variable=self._served.model.api_key_env or TOKEN_VARIABLE,
            )

    def _publish(self) -> None:
        """Where the replica answers, for people; its token stays in this process."""
        where = {"node": socket.gethostname(), "host": _HOST, "port": self._port}
        write_text(self._record, json.dumps({**where, "pid": os.getpid()}))


@asynccontextmanager
async def endpoint_clients(
    run: Run, endpoints: Mapping[str, Endpoint]
) -> AsyncIterator[dict[str, HttpClient]]:
    """A client for each endpoint, with as many connections as requests may be in flight."""
    served = run.spec.served()
    clients = {
        name: HttpClient(
            endpoint.url,
            token=endpoint.token,
            connections=served[name].concurrency + 1,  # one for the canary
            timeout=run.spec.run.request_timeout,
        )
        for name, endpoint in endpoints.items()
    }
    try:
        yield clients
    finally:
        for client in clients.values():
            await client.close()


def _outside_key(model: Model) -> str | None:
    name = model.api_key_env
    if name is None:
        return None
    value = os.environ.get(name)
    if not value:
        raise EndpointError(
            f"the key of {model.url} is read from ${name}, which is not set on this node",
            cause="the variable is set where you submitted, but not in the job",
            hint=f"export {name} in the site's environment.setup, from a file only you can read",
        )
    return value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port
