"""A cluster of its own, a small shared file system, and the user's commands on it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from threading import Lock
from typing import Any

from tests.chaos.disk import Disk
from tests.chaos.harness import DOCUMENTS
from tests.chaos.processes import Process, processes_in
from tests.integration.cluster import DevCluster
from tests.models.checkpoints import write_hf

_HERE = Path(__file__).parent
NODES = ("n1", "n2", "n3", "n4")
SHARDS = 12
DISK_MIB = 256
_HARNESS = f"""\
exec "$EVALHPC_PYTHON" {_HERE / "harness.py"} {{{{ benchmark.task }}}} \\
  "$EVALHPC_OUTPUT_DIR" "$EVALHPC_BASE_URL" {{{{ model.model_id }}}}
"""
_SERVER = f"""\
server=(
  "$EVALHPC_PYTHON" {_HERE / "server.py"} "$EVALHPC_HOST" "$EVALHPC_PORT"
  {{{{ model.model_id }}}}
{{% for word in deployment.extra_args %}}
  {{{{ word }}}}
{{% endfor %}}
)
"""
_SITE = """\
name: chaos
extends: devcluster
hostnames: []
templates: {templates}
deploy: {{servers: {{hf: hf}}, extra_args: ["{seconds}", "{counts}"]}}
environment:
  setup: ["export LD_PRELOAD={skew} CHAOS_CLOCK={clocks}/$SLURMD_NODENAME"]
run:
  shards: {shards}
  concurrency: 8
  adaptive: false
  unit_size: 8
  ready_timeout: 100
  lease_timeout: 5
"""


@dataclass(frozen=True)
class Rig:
    """Where a trial's runs live, and how its user and its troublemaker get at them."""

    cluster: DevCluster
    server: Disk  # the shared file system of the runs
    home: Path  # the user's files that no run writes to
    plain: Path  # what the harness writes without evalhpc
    #: One thing at a time goes wrong with a node's daemons: a dead node cannot die.
    daemons: dict[str, Lock] = field(
        default_factory=lambda: {node: Lock() for node in ("login", *NODES)}
    )

    def evalhpc(self, *words: object, timeout: float = 400) -> CompletedProcess[str]:
        """The user's command line on the login node."""
        program = Path(sys.executable).with_name("evalhpc")
        env = {"PATH": f"{program.parent}:/usr/bin:/bin"}
        command = [str(program), *map(str, words)]
        return self.cluster.exec(command, cwd=self.home, env=env, timeout=timeout)

    def slurm(self, *words: str, user: str = "evaluser") -> CompletedProcess[str]:
        """A command of Slurm's on the login node."""
        return self.cluster.exec(list(words), user=user, timeout=60)

    def submit(self, run: Path, partition: str) -> CompletedProcess[str]:
        """Both tasks, twelve shards."""
        tasks = ",".join(f"lm-eval/{task}" for task in DOCUMENTS)
        return self.evalhpc(
            "submit", "--run-dir", run, "--site", self.home / "chaos.yaml",
            "--model", self.home / "tiny", "--tasks", tasks,
            "--set", f"slurm.partition={partition}",
        )  # fmt: skip

    def status(self, run: Path) -> dict[str, Any]:
        """What `evalhpc status --json` says."""
        done = self.evalhpc("status", run, "--json")
        if not done.stdout:
            return {"state": f"unknown: {done.stderr}"}
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def processes(self, run: Path) -> list[Process]:
        """Everything that runs for this run on any node."""
        return processes_in(run)

    def running_tasks(self, run: Path) -> list[str]:
        """Ids of the run's running jobs and array tasks, such as `17_3`."""
        return [line.split()[0] for line in self._queue(run) if line.split()[1] == "RUNNING"]

    def jobs(self, run: Path) -> list[str]:
        """A line for each job of the run that Slurm still has to do with."""
        return self._queue(run)

    def _queue(self, run: Path) -> list[str]:
        command = ["squeue", "--noheader", "--array", "--Format=JobArrayID:30,State:20,WorkDir:200"]
        done = self.slurm(*command)
        if done.returncode != 0:
            return ["? UNKNOWN"]  # the controller is away: nobody can say that nothing is there
        return [line for line in done.stdout.splitlines() if line.split()[-1:] == [str(run)]]

    def asked(self) -> int:
        """How many completions the model servers have answered since `forget_counts`."""
        return sum(path.read_bytes().count(b"\n") for path in self.counts.iterdir())

    def forget_counts(self) -> None:
        for path in self.counts.iterdir():
            path.unlink()

    @property
    def disk(self) -> Path:
        """The files of the runs, as the file server itself sees them."""
        return self.server.folder

    @property
    def counts(self) -> Path:
        return self.home / "counts"

    def set_clock(self, node: str, seconds: int) -> None:
        """From now on the node's wall clock is off by so much."""
        path = self.home / "clocks" / node
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(struct.pack("<q", seconds))


@contextmanager
def rig(state: Path, *, seconds: float) -> Iterator[Rig]:
    """A cluster of four nodes; a request takes up to `seconds`. Needs root."""
    server, cluster = Disk(Path(f"{state}-disk"), Path(f"{state}-tools")), DevCluster(state)
    disk = server.folder
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=755", "tmpfs", disk], check=True
    )
    try:
        server.build()
        cluster.up(nodes=len(NODES), boot=server.mount)
        owner = cluster.home.stat()
        os.chown(disk, owner.st_uid, owner.st_gid)
        made = Rig(cluster, server, cluster.home / "chaos", cluster.home / "plain")
        _write_files(made, seconds)
        _run_plain(made)
        for path in (made.home, *made.home.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
            os.utime(path, (1, 1))  # a checkpoint of just now would be warned of
        yield made
    finally:
        cluster.script("down")
        subprocess.run(["umount", "--lazy", disk], check=True)
        disk.rmdir()
        shutil.rmtree(server.tools, ignore_errors=True)


def _write_files(made: Rig, seconds: float) -> None:
    templates = made.home / "templates"
    for name, text in (("harness/lm-eval.sh.j2", _HARNESS), ("deploy/hf.sh.j2", _SERVER)):
        path = templates / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made.counts.mkdir()
    (made.home / "clocks").mkdir()
    for node in NODES:
        made.set_clock(node, 0)
    skew = made.home / "skew.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", skew, _HERE / "skew.c", "-ldl"],
        check=True,
    )
    write_hf(made.home / "tiny", tokenizer=False)
    (made.home / "chaos.yaml").write_text(
        _SITE.format(
            templates=templates,
            seconds=seconds,
            counts=made.counts,
            skew=skew,
            clocks=made.home / "clocks",
            shards=SHARDS,
        )
    )


def _run_plain(made: Rig) -> None:
    """The harness against the server with nothing of evalhpc between: what is right."""
    counts = made.plain.parent / "plain-counts"
    counts.mkdir()
    port = "18765"  # in the login node's own network
    for task in DOCUMENTS:
        output = made.plain / task
        output.mkdir(parents=True)
        script = (
            f"{sys.executable} {_HERE / 'server.py'} 127.0.0.1 {port} tiny 0 {counts} & server=$!; "
            f"for i in $(seq 100); do (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; "
            f"sleep 0.1; done; EVALHPC_API_KEY=none {sys.executable} {_HERE / 'harness.py'} "
            f"{task} {output} http://127.0.0.1:{port}/v1 tiny; code=$?; kill $server; exit $code"
        )
        made.cluster.exec(["bash", "-c", script], user="root", check=True)
    shutil.rmtree(counts)
