"""A Megatron checkpoint on real Ray across nodes: sharded as if it had not been, whoever is killed.

scripts/chaos --servers runs the kills that are marked `chaos` too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from evalhpc.paths import RunPaths
from tests.integration import harness_outputs
from tests.integration.cluster import DevCluster, wait_until
from tests.integration.lm_eval_tasks import without_catalogue
from tests.integration.megatron_rig import make_checkpoint
from tests.integration.ray_runs import RayCluster, RayDesk

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]

CHAT, SCORED = "gsm8k_demo", "truthfulqa_mc1_demo"
LIMIT = 3
#: What is noticed first of a rank that is gone: Ray's books, or requests that nobody answers.
DEAD_RANK = "cluster lost a node|completes nothing"
Submitting = Future[tuple[Path, CompletedProcess[str]]]


@pytest.fixture(scope="module")
def desk(cluster: DevCluster) -> Iterator[RayDesk]:
    home = cluster.home / f"ray-{os.getpid()}"
    checkpoint = make_checkpoint(home / "toy", "--tp", "2")
    for path in (home, *home.rglob("*")):
        os.chown(path, cluster.home.stat().st_uid, cluster.home.stat().st_gid)
        os.utime(path, (1, 1))  # or it may still be written
    folder = cluster.state / f"lm-eval-{home.name}"  # its links must not change hands
    yield RayDesk(cluster, home, checkpoint, without_catalogue(folder))
    shutil.rmtree(home)
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Pair:
    """Two runs that were on the same two nodes at the same time, and a third without shards."""

    spanning: Path  # its replica spanned both nodes
    beside: Path  # a replica on each
    submitted: CompletedProcess[str]  # `submit --wait` of the latter
    clusters: list[RayCluster]  # while both served
    tokens: list[str]
    plain: dict[str, dict[str, Any]]  # benchmark → what the harness's script left, asking spanning


@pytest.fixture(scope="module")
def pair(desk: RayDesk) -> Pair:
    both = ["--tasks", f"lm-eval/{CHAT},lm-eval/{SCORED}", "--limit", LIMIT]
    shared = {"deploy.topology": "job", "slurm.extra": "['--exclude=n[3-4]']"}
    spanning, rendered = desk.start("render", "spanning", *both, gpus=1, **shared)
    assert rendered.returncode == 0, rendered.stderr
    sbatch = ["sbatch", "--parsable", str(spanning / "scripts" / "deploy.sbatch")]
    job = desk.cluster.exec(sbatch, check=True).stdout.strip()
    with ThreadPoolExecutor() as pool:
        submitting = pool.submit(
            desk.start, "submit", "beside", *both, "--wait", gpus=2,
            **shared, **{"deploy.replicas": 2},
        )  # fmt: skip
        beside = desk.home / "beside"
        desk.deployment(beside)
        url = desk.deployment(spanning)["urls"]["model"]
        clusters = all_ranks(desk, 4 + 2)
        tokens = [token_of(desk, run) for run in (spanning, beside)]
        plain = {name: plain_run(desk, beside, name, url, tokens[0]) for name in (CHAT, SCORED)}
        submitted = submitting.result()[1]
    desk.cluster.exec(["scancel", job], check=True)
    return Pair(spanning, beside, submitted, clusters, tokens, plain)


def all_ranks(desk: RayDesk, count: int) -> list[RayCluster]:
    """The Ray clusters, once all ranks are there: one replica of two answers before the other."""
    seen: list[RayCluster] = []

    def up() -> bool:
        seen[:] = desk.ray_clusters()
        return sum(len(ray.ranks) for ray in seen) == count

    wait_until(up, timeout=60, what=f"{count} ranks are up")
    return seen


def token_of(desk: RayDesk, run: Path) -> str:
    """The token of the run's deployment jobs."""
    name = RunPaths(run).token_name.read_text().strip()
    return (desk.cluster.home / ".local/state/evalhpc/tokens" / name).read_text().strip()


def plain_run(desk: RayDesk, run: Path, name: str, url: str, token: str) -> dict[str, Any]:
    """What the run's own script leaves when it asks a server itself."""
    output = desk.home / f"plain-{name}"
    env = {"EVALHPC_BASE_URL": url, "EVALHPC_OUTPUT_DIR": str(output), "EVALHPC_API_KEY": token}
    script = run / "scripts" / f"harness-{name}.sh"
    desk.cluster.exec(["bash", str(script)], env=env, check=True, timeout=500)
    return harness_outputs.lm_eval(output)


def test_two_shards_and_two_replicas_leave_what_one_plain_run_leaves(pair: Pair) -> None:
    """Generation and log-likelihood, against a replica of one rank on each of two nodes."""
    assert pair.submitted.returncode == 0, pair.submitted.stderr
    for name, expected in pair.plain.items():
        assert len(expected) == 2
        assert harness_outputs.lm_eval(pair.beside / "results" / name) == expected
    counts = json.loads((pair.beside / "certificate.json").read_text())["counts"]
    assert counts["planned"] == counts["answered"] > 2 * LIMIT


def test_what_was_inspected_is_what_is_served(pair: Pair) -> None:
    """The run's record has the checkpoint's shape, and how its copies lie on the nodes."""
    for run, replicas in ((pair.spanning, 1), (pair.beside, 2)):
        spec = yaml.safe_load((run / "run.yaml").read_text())["spec"]
        model, deployment = spec["model"], spec["deployment"]
        assert (model["format"], model["layers"], model["heads"]) == ("megatron-dist", 2, 8)
        assert (model["kv_heads"], model["context_length"], model["chat_template"]) == (
            4,
            4096,
            True,
        )
        assert (deployment["kind"], deployment["nodes"]) == ("megatron-ray", 2)
        assert (deployment["tensor_parallel"], deployment["replicas"]) == (2, replicas)


def test_two_runs_on_the_same_nodes_do_not_meet(pair: Pair) -> None:
    """Each has a Ray cluster with an address, folders and ranks of its own."""
    assert len(pair.clusters) == 2
    assert all(set(cluster.raylets) == {"n1", "n2"} for cluster in pair.clusters)
    assert all(cluster.folders for cluster in pair.clusters)
    assert pair.clusters[0].folders.isdisjoint(pair.clusters[1].folders)
    ranks = sorted(sorted(rank.node for rank in cluster.ranks) for cluster in pair.clusters)
    assert ranks == [["n1", "n1", "n2", "n2"], ["n1", "n2"]]


@pytest.mark.usefixtures("pair")
def test_nothing_is_left_of_two_servers(desk: RayDesk) -> None:
    """Neither a process nor a folder on any node, whether the job was cancelled or had done."""
    wait_until(lambda: not desk.left_over(), timeout=20, what="the nodes are clean")


def test_no_token_is_ever_written_down(pair: Pair) -> None:
    """In no file of the run directories."""
    for run in (pair.spanning, pair.beside):
        for path in (path for path in run.rglob("*") if path.is_file()):
            for token in pair.tokens:
                assert token.encode() not in path.read_bytes(), path


def without_paths(run: Path, name: str) -> dict[str, bytes]:
    """The run's results of a benchmark, comparable with those of another run."""
    found = harness_outputs.lm_eval(run / "results" / name)
    return {file: data.replace(bytes(run), b"RUN") for file, data in found.items()}


def shard_at_work(run: Path, submitting: Submitting) -> tuple[int, str]:
    """The first shard that has answered something, and its first node; fails if the run ends."""
    workers = run / "leases" / "1" / "workers"

    def answering() -> list[tuple[int, str]]:
        said = {
            path.stem: json.loads(path.read_text())["stats"] for path in workers.glob("0*.json")
        }
        return [(int(name), stats["node"]) for name, stats in said.items() if stats.get("answered")]

    wait_until(lambda: bool(answering()) or submitting.done(), timeout=120, what="a shard answers")
    assert not submitting.done(), submitting.result()
    return answering()[0]


@contextmanager
def all_nodes_back(desk: RayDesk) -> Iterator[None]:
    """At the end of the block, those that crashed in it are there again."""
    try:
        yield
    finally:
        for node in desk.nodes(alive=False):
            desk.cluster.boot(node)


def kill(desk: RayDesk, run: Path, victim: str, node: str) -> None:
    """End one part of the server of the shard on `node`, without warning."""
    (ray,) = (  # no other shard has this node
        cluster for cluster in desk.ray_clusters() if node in cluster.raylets
    )
    (other,) = ray.raylets.keys() - {node}
    here = desk.processes(node)
    steps = [process.pid for process in here if process.line.startswith("slurmstepd")]
    if victim == "node":
        desk.cluster.crash(other)
    elif victim == "worker":
        desk.kill(ray.raylets[other])
    elif victim == "model":
        desk.kill(next(rank for rank in ray.ranks if rank.node == other))
    elif victim == "replica":
        both = desk.processes(node, other)
        desk.kill(next(one for one in both if one.line.startswith("ray::ServeReplica")))
    elif victim == "container":
        script = str(run / "scripts" / "server.sh")
        desk.kill(next(one for one in here if one.line.endswith(script) and one.parent in steps))
    else:
        desk.kill(next(process for process in here if "/gcs_server --" in process.line))


def run_broken(desk: RayDesk, victim: str) -> tuple[Path, int]:
    """A run that is complete, and its shard that lost a part of its server; its nodes are clean."""
    run, hold = desk.home / victim, desk.home / f"hold-{victim}"
    patience = 10 if victim == "node" else 20  # before Slurm finds that a node is gone
    # Who says by itself that it is gone needs no canary, and while all are held the other shard's
    # server would fail them too, if the machine is so busy that the kill comes late.
    canary = 10 if victim in ("head", "worker", "container") else 2
    settings = {
        "run.unit_size": 1, "run.concurrency": 1, "run.canary": canary,
        "run.request_timeout": patience,
        "environment.variables.STANDIN_DELAY": "'1'", "environment.variables.STANDIN_HOLD": hold,
        "slurm.extra": "[--exclusive]",
    }  # fmt: skip
    with ThreadPoolExecutor() as pool, all_nodes_back(desk):
        submitting = pool.submit(
            desk.start, "submit", victim, "--tasks", f"lm-eval/{SCORED}", "--limit", LIMIT,
            "--wait", gpus=1, **settings,
        )  # fmt: skip
        shard, node = shard_at_work(run, submitting)
        hold.touch()  # nothing is finished until the kill
        kill(desk, run, victim, node)
        hold.unlink()
        record = run / "journals" / f"0001-{shard:05}-000.failures.jsonl"
        if victim != "replica":
            wait_until(record.exists, timeout=30, what=f"the shard has failed: {victim}")
        done = submitting.result()[1]
        wait_until(lambda: not desk.left_over(), timeout=20, what="the nodes are clean")
    assert done.returncode == 0, done.stderr
    return run, shard


@pytest.mark.parametrize(
    ("victim", "cause"),
    [
        pytest.param("head", "the Ray head ended", marks=pytest.mark.chaos),
        ("worker", "the Ray (worker of this node ended|cluster lost a node)"),
        pytest.param("model", DEAD_RANK, marks=pytest.mark.chaos),
        pytest.param("container", "task 0: Killed", marks=pytest.mark.chaos),
        pytest.param("node", DEAD_RANK, marks=pytest.mark.chaos),
    ],
)
def test_a_killed_part_costs_its_shard_and_no_answer(
    desk: RayDesk, pair: Pair, victim: str, cause: str
) -> None:
    """The shard ends at once and says why; the run completes from the other one, exact."""
    run, shard = run_broken(desk, victim)
    (failed,) = desk.status(run)["failed_shards"]
    assert (failed["round"], failed["shard"]) == (1, shard)
    said = desk.evalhpc("status", run).stdout
    assert re.search(cause, failed["what"]), failed["what"]
    assert re.search(cause, said), said
    assert without_paths(run, SCORED) == without_paths(pair.beside, SCORED)


@pytest.mark.chaos
def test_a_killed_replica_costs_no_answer(desk: RayDesk, pair: Pair) -> None:
    """Ray Serve would start it again; its ranks die with it, and the shard says so. Exact."""
    run, _ = run_broken(desk, "replica")
    for failed in desk.status(run)["failed_shards"]:
        assert re.search(DEAD_RANK, failed["what"]), failed["what"]
    assert without_paths(run, SCORED) == without_paths(pair.beside, SCORED)
