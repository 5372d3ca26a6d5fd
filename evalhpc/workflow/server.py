"""One model server process: started from its script, watched, and ended with its whole group."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evalhpc import process
from evalhpc.deploy.readiness import server_ended, wait_ready
from evalhpc.errors import EndpointError
from evalhpc.models.runspec import RunSpec, Served

if TYPE_CHECKING:
    import subprocess  # for an annotation: only `process` runs commands

log = logging.getLogger(__name__)
HOST = "127.0.0.1"


class Server:
    """One process of an endpoint on this node's loopback, with a bearer token of its own."""

    def __init__(self, served: Served, script: Path, log_file: Path, token: str) -> None:
        self._served = served
        self._script = script
        self._log = log_file
        self._token = token
        self._child: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Its base URL, once it was started."""
        return f"http://{HOST}:{self.port}/v1"

    def start(self, env: Mapping[str, str]) -> None:
        """Start it in the background, unless it was; `env` is added to our environment."""
        if self._child is not None:
            return
        self.port = _free_port()
        mine = {
            "EVALHPC_HOST": HOST,
            "EVALHPC_PORT": str(self.port),
            "EVALHPC_SERVER_TOKEN": self._token,
        }
        log.info("starting %s, its log is %s", self._script.name, self._log)
        words = ["bash", str(self._script)]
        self._child = process.start(words, log=self._log, env={**os.environ, **mine, **env})

    def stop(self) -> None:
        """End it, if it was started."""
        if self._child is not None:
            process.stop(self._child)

    def prove(self, deadline: float) -> None:
        """Return once it answered a real request of every kind; raises EndpointError."""
        if self._child is None:
            raise RuntimeError("the server was not started")
        for kind in self._served.kinds:
            wait_ready(
                self.url,
                self._served.model.model_id,
                kind=kind,
                token=self._token,
                deadline=deadline,
                alive=self._child.poll,
                log=self._log,
            )

    def death(self) -> EndpointError | None:
        """Why it ended, if it was started and has."""
        code = None if self._child is None else self._child.poll()
        if code is None:
            return None
        return server_ended(self.url, code, self._log, self._token, when="while it was at work")


def gpu_lists(spec: RunSpec, visible: str | None) -> dict[str, list[str]]:
    """Endpoint → GPUs of each of its processes on a node, as CUDA_VISIBLE_DEVICES wants them.

    `visible` is that variable as the job has it. Empty where one process has all GPUs of the job,
    and nothing need be said.
    """
    wanted = [
        (name, served.deployment.node_gpus)
        for name, served in spec.served().items()
        for _ in range(served.deployment.processes)
        if served.deployment.node_gpus
    ]
    lists: dict[str, list[str]] = {name: [] for name in spec.served()}
    if len(wanted) < 2:
        return lists
    devices = (visible or "").split(",")
    if devices == [""]:
        devices = [str(number) for number in range(sum(count for _, count in wanted))]
    for name, count in wanted:
        if count > len(devices):
            raise EndpointError(
                f"there are too few GPUs here for {name}: CUDA_VISIBLE_DEVICES={visible}",
                cause="the job got fewer than resources.shard.gpus_per_node says",
                hint="compare scripts/*.sbatch with what Slurm gave: scontrol show job",
            )
        lists[name].append(",".join(devices[:count]))
        devices = devices[count:]
    return lists


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
