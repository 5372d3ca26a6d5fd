"""The models that a job's worker asks: started beside it, shared by all shards, or up elsewhere."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from evalhpc.core.exposure import has_nodes_alone
from evalhpc.deploy.access import TOKEN_VARIABLE
from evalhpc.deploy.dialect_probe import refuse_export_deploy
from evalhpc.deploy.readiness import refuse_open, wait_ready
from evalhpc.errors import EndpointError
from evalhpc.models.checkpoint import Model
from evalhpc.models.deployment import Existing
from evalhpc.models.runspec import Served
from evalhpc.storage.atomic import write_text
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.moving import Whereabouts
from evalhpc.workflow.serve.server import HOST, Server, gpu_lists
from evalhpc.workflow.serve.shared_replica import SharedReplica


@dataclass(frozen=True)
class Endpoint:
    """Where a worker asks, one URL for each copy, with the bearer token it sends (None: none)."""

    urls: tuple[str, ...]  # each ends in /v1
    token: str | None
    where: Whereabouts | None = None  # of one that moves, instead of its first URL


class Replica(Protocol):
    """What answers at one endpoint, as one job sees it."""

    def start(self) -> None:
        """Start it in the background, if it is this job's to start."""

    def ready(self) -> tuple[tuple[str, ...], str | None]:
        """(its URLs, the token), proved by a real request; raises EndpointError."""

    def death(self) -> EndpointError | None:
        """Why it ended, if it was started here and has."""

    def stop(self) -> None:
        """End what was started here."""


class Replicas:
    """The models of one job, by endpoint: started at most once, ended with the block.

    `serve`: start servers here even where shards share deployment jobs: this job is one of them.
    """

    def __init__(self, run: Run, round_: int, shard: int, *, serve: bool = False) -> None:
        self._ready: dict[str, Endpoint] = {}
        self._replicas: dict[str, Replica] = {}
        for name, served in run.spec.served().items():
            if served.model.url is not None:
                self._replicas[name] = OutsideReplica(run, shard, served)
            elif run.spec.shares_deployment and not serve:
                self._replicas[name] = SharedReplica(run, shard, name)
            else:
                self._replicas[name] = OwnReplica(run, round_, shard, name)

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self._replicas.values():
            replica.stop()

    def start(self) -> None:
        """Start all of them in the background."""
        for replica in self._replicas.values():
            replica.start()

    def started_here(self) -> list[str]:
        """The endpoints whose servers this job starts."""
        return [name for name, one in self._replicas.items() if isinstance(one, OwnReplica)]

    def ready(self, endpoints: Iterable[str] | None = None) -> dict[str, Endpoint]:
        """Those endpoints (None: all), each proved by a real request; raises EndpointError."""
        wanted = list(self._replicas if endpoints is None else endpoints)
        for name in wanted:
            self._replicas[name].start()  # so that they load at the same time
        for name in wanted:
            if name not in self._ready:
                replica = self._replicas[name]
                where = replica if isinstance(replica, SharedReplica) else None
                self._ready[name] = Endpoint(*replica.ready(), where)
        return {name: self._ready[name] for name in wanted}

    def death(self) -> EndpointError | None:
        """Why the first server ended that has; None while all that were started run."""
        deaths = (replica.death() for replica in self._replicas.values())
        return next((error for error in deaths if error is not None), None)


class OwnReplica:
    """The copies of one endpoint's model that this job starts, each proved before use."""

    def __init__(self, run: Run, round_: int, shard: int, name: str) -> None:
        self._run = run
        self._name = name
        self._record = run.paths.endpoint(round_, shard, name)
        self._token = secrets.token_hex(24)
        served, script = run.spec.served()[name], run.paths.server_script(name)
        self._servers = [
            Server(served, script, run.paths.server_log(round_, shard, name, copy), self._token)
            for copy in range(served.deployment.processes)
        ]

    def start(self) -> None:
        """Start every copy in the background, each with GPUs of its own."""
        # Here, and not before: a job without servers need not have their GPUs.
        gpus = gpu_lists(self._run.spec, os.environ.get("CUDA_VISIBLE_DEVICES"))[self._name]
        for copy, server in enumerate(self._servers):
            server.start({"EVALHPC_GPUS": gpus[copy]} if gpus else {})

    def ready(self) -> tuple[tuple[str, ...], str]:
        """(their URLs, the token), each proved; raises EndpointError."""
        self.start()
        for server in self._servers:
            server.prove(self._run.spec.run.ready_timeout)
        self._refuse_open()
        # For people; the token stays in this process.
        ports = [server.port for server in self._servers]
        where = {"node": socket.gethostname(), "host": HOST, "ports": ports, "pid": os.getpid()}
        write_text(self._record, json.dumps(where))
        return tuple(server.url for server in self._servers), self._token

    def _refuse_open(self) -> None:
        """Where others may share the node, a server that knows tokens has to ask for ours."""
        spec, served = self._run.spec, self._run.spec.served()[self._name]
        if served.deployment.takes_token and not has_nodes_alone(spec.site):
            for server in self._servers:
                refuse_open(server.url, served.model.model_id, served.kinds[0])

    def death(self) -> EndpointError | None:
        """Why the first copy ended that has."""
        deaths = (server.death() for server in self._servers)
        return next((error for error in deaths if error is not None), None)

    def stop(self) -> None:
        """End every copy that was started."""
        for server in self._servers:
            server.stop()


class OutsideReplica:
    """A server that somebody else runs."""

    def __init__(self, run: Run, shard: int, served: Served) -> None:
        self._run = run
        self._shard = shard
        self._served = served

    def start(self) -> None:
        """It is up."""

    def ready(self) -> tuple[tuple[str, ...], str | None]:
        """(its URL, the key), proved by a real request of every kind; raises EndpointError."""
        model = self._served.model
        url, key = str(model.url), _outside_key(model)
        if self._served.deployment.dialect == "openai":
            refuse_export_deploy(url, key)
        interval = self._interval()
        shards = self._run.spec.run.shards
        time.sleep(self._shard % shards * interval)  # the shards' turns do not coincide
        for kind in self._served.kinds:
            wait_ready(
                url,
                model.model_id,
                kind=kind,
                token=key,
                deadline=self._run.spec.run.ready_timeout,
                token_variable=model.api_key_env or TOKEN_VARIABLE,
            )
            time.sleep(shards * interval)  # such a request counts like any other
        return (url,), key

    def _interval(self) -> float:
        """Seconds between two requests of the run, where the server limits their rate."""
        deployment = self._served.deployment
        limited = isinstance(deployment, Existing) and deployment.rate_limit
        return 60.0 / limited if limited else 0.0

    def death(self) -> None:
        """Its process is not ours to watch."""

    def stop(self) -> None:
        """It goes on."""


def _outside_key(model: Model) -> str | None:
    name = model.api_key_env
    if name is None:
        return None
    value = os.environ.get(name)
    if not value:
        raise EndpointError(
            f"the key of {model.url} is read from ${name}, which is not set on this node",
            cause="the variable is set where you submitted, but not in the job",
            hint=f"list {name} under environment.secrets.names of the site, and set it in its file",
        )
    return value
