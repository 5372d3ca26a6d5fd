"""Runs of a toy Megatron checkpoint on Ray across nodes of the dev cluster, and what runs there."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.integration.cluster import DevCluster, wait_until
from tests.integration.megatron_rig import SCRIPT, interpreter

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
#: What a killed or ended server must not leave on a node.
_OURS = ("gcs_server", "raylet", "ray::", "ray/dashboard", "ray start", SCRIPT.name)
_GCS = re.compile(r"--gcs-address=(\S+)")


@dataclass(frozen=True)
class Process:
    """One process on a node of the cluster."""

    node: str
    pid: int
    parent: int
    line: str  # its command line


@dataclass(frozen=True)
class RayCluster:
    """One Ray cluster, by its processes on the nodes."""

    address: str  # of its head
    raylets: dict[str, Process]  # node → its raylet
    ranks: list[Process]  # of models

    @property
    def folders(self) -> set[str]:
        """Where its nodes keep their sockets and logs."""
        return {
            found[0]
            for raylet in self.raylets.values()
            if (found := re.search(r"/tmp/ehpc\.\w+", raylet.line))
        }


@dataclass(frozen=True)
class RayDesk:
    """The ordinary user's checkpoint and command line, and a view of all nodes."""

    cluster: DevCluster
    home: Path
    checkpoint: Path
    harness: Path  # the interpreter of lm-eval

    def evalhpc(self, verb: str, run: Path, *words: object) -> CompletedProcess[str]:
        return self.cluster.exec([EVALHPC, verb, str(run), *map(str, words)], timeout=500)

    def start(
        self, verb: str, name: str, *words: object, gpus: int, **settings: object
    ) -> tuple[Path, CompletedProcess[str]]:
        """`evalhpc VERB` of a run on 2 nodes with `gpus` each, by the unmodified templates."""
        run = self.home / name
        ray = "deploy.options.megatron-ray"
        common = {
            "resources.shard.nodes": 2,
            "resources.shard.gpus_per_node": gpus,
            "deploy.tensor_parallel": 2,
            f"{ray}.python": interpreter(),
            f"{ray}.script": SCRIPT,
            f"{ray}.cpus_per_replica": 1,
            "run.ready_timeout": 240,
            "pythons.lm-eval": self.harness,
        }
        sets = [f"--set={key}={value}" for key, value in {**common, **settings}.items()]
        done = self.cluster.exec(
            [EVALHPC, verb, "--site", "devcluster", "--model", str(self.checkpoint),
             "--run-dir", str(run), "--shards", "2", *sets, *map(str, words)],
            timeout=550,
        )  # fmt: skip
        return run, done

    def status(self, run: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.evalhpc("status", run, "--json").stdout)
        return found

    def deployment(self, run: Path) -> dict[str, Any]:
        """What the run's deployment job says of itself, once it serves."""
        path = run / "endpoints" / "deployment-0.json"

        def said() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
            assert not found.get("ended"), found
            return found

        wait_until(lambda: bool(said().get("urls")), timeout=120, what=f"{run} is served")
        return said()

    def nodes(self, *, alive: bool = True) -> list[str]:
        """The compute nodes that live, or those that do not."""
        status = self.cluster.status()["nodes"]
        return [n["name"] for n in status if n["name"] != "login" and n["alive"] == alive]

    def processes(self, *nodes: str) -> list[Process]:
        """Everything that runs on these nodes (none: all that live)."""
        return [process for node in nodes or self.nodes() for process in self._listed(node)]

    def ray_clusters(self) -> list[RayCluster]:
        """Those that are up, in the order of their addresses."""
        everything = self.processes()
        raylets: dict[str, dict[str, Process]] = {}
        for process in everything:
            found = _GCS.search(process.line)
            if found and "/raylet --" in process.line:
                raylets.setdefault(found[1], {})[process.node] = process
        clusters = []
        for address, nodes in sorted(raylets.items()):
            parents = {(node, raylet.pid) for node, raylet in nodes.items()}
            ranks = [
                process
                for process in everything
                if process.line.startswith("ray::ModelWorker")
                and (process.node, process.parent) in parents
            ]
            clusters.append(RayCluster(address, nodes, ranks))
        return clusters

    def left_over(self) -> list[str]:
        """What servers left on the nodes that live: processes, and folders in /tmp."""
        found = [
            f"{process.node}: {process.line[:200]}"
            for process in self.processes()
            if any(word in process.line for word in _OURS)
        ]
        for node in self.nodes():
            listed = self.cluster.exec(["find", "/tmp", "-name", "ehpc.*"], user="root", node=node)
            found += [f"{node}: {line}" for line in listed.stdout.splitlines()]
        return found

    def kill(self, process: Process) -> None:
        """SIGKILL, by its id on its node."""
        command = ["kill", "-KILL", str(process.pid)]
        self.cluster.exec(command, user="root", node=process.node, check=True)

    def _listed(self, node: str) -> Iterator[Process]:
        command = ["ps", "-eww", "-o", "pid=,ppid=,args="]
        done = self.cluster.exec(command, user="root", node=node, check=True)
        for line in done.stdout.splitlines():
            pid, parent, words = line.split(maxsplit=2)
            yield Process(node, int(pid), int(parent), words)
