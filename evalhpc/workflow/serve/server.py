"""One model server process: started from its script, watched, and ended with its whole group."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evalhpc import process
from evalhpc.core.bounded_stream import BoundedStream
from evalhpc.core.masking import MaskedStream, mask_of
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
            "RAY_AUTH_TOKEN": secrets.token_hex(24),
        }
        log.info("starting %s, its log is %s", self._script.name, self._log)
        words = ["bash", str(self._script)]
        env = {**os.environ, **mine, **env}
        output = BoundedStream(MaskedStream(mask_of(env)))
        self._child = process.start(words, log=self._log, env=env, tied=True, through=output)

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

    `visible` is that variable as the job has it: indices or UUIDs. No lists where one process has
    all GPUs of the job, and nothing need be said. Raises EndpointError where there are too few.
    """
    served = spec.served()
    wanted = [
        (name, one.deployment)
        for name, one in served.items()
        for _ in range(one.deployment.processes)
        if one.deployment.node_gpus
    ]
    lists: dict[str, list[str]] = {name: [] for name in served}
    if len(wanted) < 2:
        return lists
    total = sum(deployment.node_gpus for _, deployment in wanted)
    devices = _devices(visible, total)
    if total > len(devices):
        raise EndpointError(
            f"there are too few GPUs here: {total} are wanted, and CUDA_VISIBLE_DEVICES={visible}",
            cause="the job got fewer than resources.shard.gpus_per_node says",
            hint="compare scripts/*.sbatch with what Slurm gave: scontrol show job",
        )
    for name, deployment in wanted:
        if deployment.nodes > 1 and not all(device.isdigit() for device in devices):
            raise EndpointError(
                f"{name} shares its nodes' GPUs, and they differ: CUDA_VISIBLE_DEVICES={visible}",
                cause="the job names its GPUs by UUID, and those of the other nodes are not known "
                "to this one",
                hint="unset CUDA_VISIBLE_DEVICES in environment.setup where jobs have whole nodes",
            )
        lists[name].append(",".join(devices[: deployment.node_gpus]))
        devices = devices[deployment.node_gpus :]
    return lists


def _devices(visible: str | None, count: int) -> list[str]:
    """What a job's list names; the first `count` where it has none."""
    named = [word.strip() for word in (visible or "").split(",") if word.strip()]
    if named == ["NoDevFiles"]:  # what Slurm says to a job without GPUs
        return []
    return named or [str(number) for number in range(count)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
