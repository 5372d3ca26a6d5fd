"""A checkpoint to scores on a real Slurm cluster: sharded as if it had not been."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.integration.cluster import DevCluster, wait_until
from tests.integration.lm_eval_tasks import strict, without_catalogue, write_tasks
from tests.models import tiny

pytestmark = pytest.mark.slurm

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
GATEWAY_PORT = 18321


@dataclass
class Workspace:
    """The ordinary user's files on the cluster, and their command line."""

    cluster: DevCluster
    model: Path
    tasks: Path
    python: Path  # of the harness

    def evalhpc(self, *words: str, timeout: float = 500) -> CompletedProcess[str]:
        return self.cluster.exec([EVALHPC, *words], timeout=timeout)

    def submit(self, run_dir: Path, *words: str, **options: Any) -> CompletedProcess[str]:
        return self.evalhpc(
            "submit", "--site", "devcluster", "--run-dir", str(run_dir),
            "--set", f"params.include_path={self.tasks}",
            "--set", f"pythons.lm-eval={self.python}", *words, **options,
        )  # fmt: skip

    def status(self, run_dir: Path) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.evalhpc("status", str(run_dir), "--json").stdout)
        return status

    @contextmanager
    def server(self, run_dir: Path, port: int, host: str = "127.0.0.1") -> Iterator[str]:
        """The run's own server script on the login node, without any of our jobs."""
        script = f"EVALHPC_HOST={host} EVALHPC_PORT={port} exec bash {run_dir}/scripts/server.sh"
        stop = self.cluster.home / f"stop-{port}"
        stop.unlink(missing_ok=True)
        command = f"({script}) & server=$!; until [ -e {stop} ]; do sleep 0.1; done; kill $server"
        thread = threading.Thread(
            target=self.cluster.exec,
            args=(["bash", "-c", command],),
            kwargs={"timeout": 500, "env": {"EVALHPC_SERVER_TOKEN": "secret"}},
        )
        thread.start()
        try:
            self._wait_for(f"http://{host}:{port}")
            yield f"http://{host}:{port}/v1"
        finally:
            stop.touch()
            thread.join()

    def _wait_for(self, base: str) -> None:
        def up() -> bool:
            return self.get(f"{base}/v1/models").returncode == 0

        wait_until(up, timeout=60, what=f"{base} answers", every=0.5)

    def plain_run(self, run_dir: Path, name: str, url: str) -> dict[str, str]:
        """The same harness script against a model server, without our gateway."""
        output = run_dir.with_name(f"{run_dir.name}-plain-{name}")
        env = {"EVALHPC_BASE_URL": url, "EVALHPC_OUTPUT_DIR": str(output)}
        done = self.cluster.exec(
            ["bash", str(run_dir / "scripts" / f"harness-{name}.sh")],
            env={**env, "EVALHPC_API_KEY": "secret"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return strict(output)

    def completions(self, url: str) -> int:
        """How many completions the server has been asked for."""
        stats = json.loads(self.get(url.removesuffix("/v1") + "/stats").stdout)
        return sum(count for path, count in stats["paths"].items() if "completions" in path)

    def get(self, url: str) -> CompletedProcess[str]:
        code = (
            "import httpx, sys; r = httpx.get(sys.argv[1], headers={'Authorization': "
            "'Bearer secret'}, trust_env=False); r.raise_for_status(); print(r.text)"
        )
        return self.cluster.exec([sys.executable, "-c", code, url])


@pytest.fixture(scope="module")
def workspace(cluster: DevCluster) -> Workspace:
    home = cluster.home
    # Another test may have restarted the controller, which then has to hear of its nodes first.
    wait_until(
        lambda: all(node["slurm"] in ("idle", "-") for node in cluster.status()["nodes"]),
        timeout=60,
        what="every node is idle",
    )
    model = tiny.build(home / "tiny")
    tasks = write_tasks(home / "tasks", 40)
    for path in (home, *home.rglob("*")):
        os.chown(path, home.stat().st_uid, home.stat().st_gid)
    # Not in the home: what it links to must not change hands.
    return Workspace(cluster, model, tasks, without_catalogue(cluster.state / "lm-eval"))


def test_eight_shards_over_four_nodes_give_the_bytes_of_one_plain_run(
    workspace: Workspace,
) -> None:
    """Both kinds of task, few-shot included, against the same harness without our gateway."""
    run_dir = workspace.cluster.home / "exact"
    done = workspace.submit(
        run_dir, "--model", str(workspace.model), "--tasks", "lm-eval/tiny_mc,lm-eval/tiny_gen",
        "--shards", "8", "--set", "resources.shard.cpus=16",  # two a node
        "--set", "run.unit_size=3", "--set", f"gateway.port={GATEWAY_PORT}", "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tiny_mc" in done.stdout
    nodes = {json.loads(p.read_text())["node"] for p in (run_dir / "endpoints").iterdir()}
    assert nodes == {"n1", "n2", "n3", "n4"}
    assert len(list((run_dir / "journals").glob("*.journal"))) >= 8

    with workspace.server(run_dir, GATEWAY_PORT) as url:
        for name in ("tiny_mc", "tiny_gen"):
            expected = workspace.plain_run(run_dir, name, url)
            assert len(expected) == 2
            assert strict(run_dir / "results" / name) == expected

    verified = workspace.evalhpc("verify", str(run_dir))
    assert verified.returncode == 0, verified.stderr


@pytest.mark.long  # in short: tests of resume on the quick site, and the schedules of chaos
def test_a_cancelled_run_resumes_with_only_what_is_missing(workspace: Workspace) -> None:
    """The server counts: no request is sent again, and the bytes are those of a plain run."""
    home = workspace.cluster.home
    tasks = write_tasks(home / "long-tasks", 100, tokens=160)
    rendered, run_dir = home / "rendered", home / "cancelled"
    words = ["--tasks", "lm-eval/tiny_gen", "--set", f"params.include_path={tasks}",
             "--set", f"pythons.lm-eval={workspace.python}"]  # fmt: skip
    done = workspace.evalhpc(
        "render", "--site", "devcluster", "--run-dir", str(rendered),
        "--model", str(workspace.model), *words,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The nodes reach this server by the login node's name on the cluster's network.
    port = GATEWAY_PORT + 1
    with workspace.server(rendered, port, host="login") as url:
        (home / "key").write_text("secret")
        submitted = workspace.cluster.exec(
            [EVALHPC, "submit", "--site", "devcluster", "--run-dir", str(run_dir),
             "--endpoint", url, "--model-id", "tiny", "--api-key-env", "TEST_KEY",
             "--set", f"environment.setup=[export TEST_KEY=$(cat {home}/key)]", *words,
             "--shards", "3", "--set", "run.unit_size=2", "--set", "run.concurrency=2"],
            env={"TEST_KEY": "secret"},
        )  # fmt: skip
        assert submitted.returncode == 0, submitted.stderr

        def answered() -> int:
            return int(workspace.status(run_dir)["answered"])

        wait_until(lambda: answered() >= 20, timeout=90, what="20 answers")
        assert workspace.evalhpc("cancel", str(run_dir)).returncode == 0
        wait_until(
            lambda: workspace.status(run_dir)["state"] == "cancelled", timeout=60, what="cancelled"
        )
        assert workspace.evalhpc("results", str(run_dir)).returncode == 9
        merged = json.loads(workspace.evalhpc("merge", str(run_dir), "--json").stdout)
        assert 20 <= merged["answers"] < 100
        before = workspace.completions(url)
        resumed = workspace.evalhpc("resume", str(run_dir), "--wait")
        assert resumed.returncode == 0, resumed.stderr
        again = workspace.completions(url) - before - (100 - merged["answers"])
        assert 0 <= again <= 3  # each shard's proof of readiness, and nothing else
        plain = workspace.plain_run(run_dir, "tiny_gen", url)
    sharded = strict(run_dir / "results" / "tiny_gen")
    gateway = re.compile(r"http://127\.0\.0\.1:\d+/v1")
    assert {name: gateway.sub(url, text) for name, text in sharded.items()} == plain
