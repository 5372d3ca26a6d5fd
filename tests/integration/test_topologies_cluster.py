"""Deployment jobs on a Slurm cluster: shards of CPUs find them, and outlive them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.integration.cluster import PATIENCE, DevCluster
from tests.integration.quick_site import write_quick_site
from tests.models.checkpoints import write_hf

pytestmark = pytest.mark.slurm

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
PATH = f"{Path(EVALHPC).parent}:/usr/bin:/bin"


@pytest.fixture
def home(cluster: DevCluster) -> Iterator[Path]:
    """A quick site and a checkpoint in the ordinary user's home."""
    folder = cluster.home / f"topologies-{os.getpid()}"
    write_quick_site(folder, "devcluster")
    write_hf(folder / "tiny", tokenizer=False)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, cluster.home.stat().st_uid, cluster.home.stat().st_gid)
        os.utime(path, (1, 1))
    for path in _tokens(cluster):
        path.unlink()  # another test's, whose run is over
    yield folder
    shutil.rmtree(folder)


def _tokens(cluster: DevCluster) -> list[Path]:
    return list(cluster.home.glob(".local/state/evalhpc/tokens/*"))


def evalhpc(cluster: DevCluster, home: Path, *words: object) -> CompletedProcess[str]:
    return cluster.exec([EVALHPC, *map(str, words)], cwd=home, env={"PATH": PATH}, timeout=400)


def submit(
    cluster: DevCluster, home: Path, task: str, mode: str, *words: object
) -> CompletedProcess[str]:
    """A run whose model is in deployment jobs; its servers are in this mode."""
    return evalhpc(
        cluster, home, "submit", "--site", home / "quick.yaml", "--model", home / "tiny",
        "--tasks", f"lm-eval/{task}", "--run-dir", home / task, "--set", "deploy.topology=job",
        "--set", f"deploy.extra_args=[{mode}]", *words,
    )  # fmt: skip


def await_true(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + PATIENCE * seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def nothing_left(cluster: DevCluster, home: Path) -> bool:
    """No job, no token, no process that names the run on any node."""
    queue = cluster.exec(["squeue", "-h", "-o", "%Z %o"], check=True).stdout
    jobs = [line for line in queue.splitlines() if str(home) in line]
    mine = f"run-dir {home}"
    processes = [p for p in Path("/proc").glob("[0-9]*") if mine in _words(p)]
    return not jobs and not _tokens(cluster) and not processes


def _words(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def job_id(run: Path, kind: str) -> int:
    """The first job of a kind."""
    jobs = [json.loads(line) for line in (run / "jobs.jsonl").read_text().splitlines()]
    return int(next(job["id"] for job in jobs if job["kind"] == kind))


def test_one_of_two_deployment_jobs_is_cancelled_at_work(cluster: DevCluster, home: Path) -> None:
    """Its shards go on with the other one, on which later rounds rest, too: no new one starts."""
    run = home / "turns"
    done = submit(
        cluster, home, "turns", "slow", "--shards", 3, "--set", "deploy.jobs=2",
        "--set", "run.concurrency=1", "--set", "run.linger=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    await_true(lambda: _answered(run))
    cluster.exec(["scancel", f"{job_id(run, 'deploy')}_0"], check=True)
    await_true(lambda: (run / "certificate.json").exists() or (run / "failure.json").exists())
    counts = json.loads((run / "certificate.json").read_text())["counts"]
    assert (counts["planned"], counts["answered"]) == (24, 24)
    ended = json.loads((run / "endpoints" / "deployment-0.json").read_text())["ended"]
    assert "asked to end (SIGTERM)" in ended
    failures = [path.read_text() for path in run.glob("journals/*.failures.jsonl")]
    assert not any("fatal" in text for text in failures)
    assert "from now on deployment job 1 is asked, not 0" in _logs(run, "shard")
    status = json.loads(evalhpc(cluster, home, "status", run, "--json").stdout)
    kinds = [job["kind"] for job in status["jobs"]]
    assert (kinds.count("deploy"), kinds.count("planning")) == (1, 1)
    assert kinds.count("collect") >= 3
    assert "serving http" in evalhpc(cluster, home, "logs", run, "--kind", "deploy").stdout
    await_true(lambda: nothing_left(cluster, home))


@pytest.mark.long
def test_a_shard_waits_for_a_deployment_job_that_was_requeued(
    cluster: DevCluster, home: Path
) -> None:
    """The shard at work ends with it; the next one finds it in the queue, waits, and does the
    rest in the same round."""
    run = home / "plain"
    done = submit(
        cluster, home, "plain", "slow", "--shards", 2, "--set", "slurm.array_throttle=1",
        "--set", "run.concurrency=1", "--set", "run.linger=0", "--set", "run.unit_size=1",
        "--set", "run.request_retries=5", "--tasks", "lm-eval/plain,lm-eval/a,lm-eval/b",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    await_true(lambda: any(path.stat().st_size > 200 for path in run.glob("journals/*.journal")))
    deploy = job_id(run, "deploy")
    cluster.exec(["scontrol", "requeue", str(deploy)], user="root", check=True)
    await_true(lambda: (run / "certificate.json").exists() or (run / "failure.json").exists())
    assert (run / "certificate.json").exists(), (run / "failure.json").read_text()
    assert sorted(path.name for path in (run / "plan").iterdir()) == ["1"]
    (said,) = run.glob("journals/*.failures.jsonl")
    assert "deployment job 0" in said.read_text()
    assert list(run.glob("journals/0001-00001-*.journal"))
    await_true(lambda: nothing_left(cluster, home))


def _logs(run: Path, kind: str) -> str:
    return "".join(path.read_text() for path in run.glob(f"logs/{kind}-*.log"))


def _answered(run: Path) -> bool:
    """Whether shards have journalled some answers."""
    return sum(path.stat().st_size > 200 for path in run.glob("journals/*.journal")) >= 2


def test_a_run_whose_deployment_failed_is_resumed_with_another(
    cluster: DevCluster, home: Path
) -> None:
    """The server dies with its first request: the run says why, and rests on no old record."""
    run = home / "plain"
    failed = submit(cluster, home, "plain", f"mortal, {home / 'once'}", "--shards", 2, "--wait")
    assert failed.returncode == 7, failed.stderr
    assert "CUDA error: device-side assert triggered" in failed.stderr
    assert not _tokens(cluster)
    assert evalhpc(cluster, home, "resume", run).returncode == 0
    await_true(lambda: (run / "certificate.json").exists() or (run / "failure.json").exists())
    assert (run / "certificate.json").exists(), (run / "failure.json").read_text()
    await_true(lambda: nothing_left(cluster, home))


def test_cancel_ends_deployment_jobs_that_load(cluster: DevCluster, home: Path) -> None:
    """At once, though their servers are not up yet; the token is gone before they are."""
    run = home / "plain"
    assert submit(cluster, home, "plain", "hang", "--shards", 1).returncode == 0
    await_true(lambda: list(run.glob("logs/server-*")))
    cancelled = evalhpc(cluster, home, "cancel", run)
    assert cancelled.returncode == 0, cancelled.stderr
    assert not _tokens(cluster)
    await_true(lambda: nothing_left(cluster, home), 20)
    ended = json.loads((run / "endpoints" / "deployment-0.json").read_text())["ended"]
    assert "asked to end" in ended


def test_gpus_that_no_node_has_are_refused_by_slurm_before_submission(
    cluster: DevCluster, home: Path
) -> None:
    """Slurm's own word, with the documented exit code; no job, no token, no run directory."""
    done = submit(
        cluster, home, "plain", "slow", "--set", "deploy.servers.hf=vllm",
        "--set", "resources.shard.gpus_per_node=64",
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "Slurm will not take" in done.stderr
    assert not (home / "plain").exists()
    assert nothing_left(cluster, home)
