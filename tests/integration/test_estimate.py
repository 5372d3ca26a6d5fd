"""Estimates and budgets where Slurm answers: nothing is left behind, and no budget is exceeded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.integration.cluster import DevCluster
from tests.integration.quick_site import write_quick_site
from tests.models.checkpoints import write_hf

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
GPU = (
    "--set",
    "deploy.servers.hf=hf",
    "--set",
    "resources.shard.gpus_per_node=2",
    "--set",
    "resources.shard.walltime=30",
)


@dataclass(frozen=True)
class Desk:
    """The ordinary user's home with a quick site, and their command line on the login node."""

    cluster: DevCluster
    home: Path

    def evalhpc(self, *words: object, env: dict[str, str] | None = None) -> CompletedProcess[str]:
        command = [EVALHPC, *map(str, words)]
        place = {"TMPDIR": str(self.home / "tmp"), **(env or {})}
        return self.cluster.exec(command, cwd=self.home, env=place, timeout=150)

    def wished(
        self, verb: str, *words: object, env: dict[str, str] | None = None
    ) -> CompletedProcess[str]:
        """`verb` with a quick run of two shards."""
        given: tuple[object, ...] = (
            "--site",
            self.home / "quick.yaml",
            "--model",
            self.home / "tiny",
        )
        if "--tasks" not in words:
            given = (*given, "--tasks", "lm-eval/ok")
        return self.evalhpc(verb, *given, *words, env=env)

    def estimate(self, *words: object) -> dict[str, Any]:
        done = self.wished("estimate", "--json", *words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def left(self) -> list[str]:
        """Runs, temporary folders, and jobs of this home."""
        listed = self.cluster.exec(["squeue", "--noheader", "--format=%Z"], check=True).stdout
        jobs = [line for line in listed.splitlines() if str(self.home) in line]
        files = [*(self.home / "runs").iterdir(), *(self.home / "tmp").iterdir()]
        return [*jobs, *map(str, files)]


@pytest.fixture(scope="module")
def desk(cluster: DevCluster) -> Iterator[Desk]:
    home = cluster.home / f"estimate-{os.getpid()}"
    write_quick_site(home, "devcluster")
    with (home / "quick.yaml").open("a") as site:
        site.write(f"run_root: {home / 'runs'}\n")
    write_hf(home / "tiny", tokenizer=False)
    for name in ("runs", "tmp"):
        (home / name).mkdir()
    for path in (home, *home.rglob("*")):
        os.chown(path, cluster.home.stat().st_uid, cluster.home.stat().st_gid)
        os.utime(path, (1, 1))
    yield Desk(cluster, home)
    shutil.rmtree(home)


@pytest.mark.slurm
def test_an_estimate_asks_the_queue_and_leaves_nothing(desk: Desk) -> None:
    """The most that it may cost, a start for each kind of job, and no history yet."""
    found = desk.estimate(*GPU, "--shards", 2)
    assert found["gpu_hours_at_most"] == 2
    assert {job["kind"]: job["gpu_seconds"] for job in found["jobs"]} == {
        "planning": 0, "shard": 7200, "collect": 0,
    }  # fmt: skip
    assert [start["kind"] for start in found["queue"]] == ["planning", "shard", "collect"]
    assert all(start["at"] for start in found["queue"])
    assert found["expected"]["source"] == "default"
    assert desk.left() == []
    shown = desk.wished("estimate", *GPU, "--shards", 2)
    assert "2 GPU-hours a round (shard: 2 tasks × 2 GPUs × 30 = 2 GPU-hours)" in shown.stdout
    assert "planning: at once" in shown.stdout


@pytest.mark.slurm
def test_what_slurm_would_refuse_is_said_after_the_figures(desk: Desk) -> None:
    """A walltime above the partition's is no estimate that anybody could use."""
    done = desk.wished("estimate", "--set", "slurm.partition=tiny")
    assert done.returncode == 5
    assert "at most " in done.stdout
    assert "Requested time limit is invalid" in done.stderr
    assert desk.left() == []


@pytest.mark.slurm
def test_a_controller_that_is_down_costs_the_queue_alone(desk: Desk) -> None:
    """The rest of the estimate needs no Slurm."""
    wrapper = desk.home / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/bash\necho 'sbatch: error: Unable to contact slurm controller "
        "(connect failure)' >&2\nexit 1\n"
    )
    wrapper.chmod(0o755)
    path = f"{wrapper.parent}:{Path(EVALHPC).parent}:/usr/bin:/bin"
    done = desk.wished("estimate", *GPU, env={"PATH": path})
    assert done.returncode == 0, done.stderr
    assert "2 GPU-hours a round" in done.stdout
    assert "the queue says nothing" in done.stderr
    assert "Unable to contact slurm controller" in done.stderr


@pytest.mark.slurm
def test_a_budget_that_the_first_array_may_exceed_submits_nothing(desk: Desk) -> None:
    """Code 12, the arithmetic, what would fit; no run directory and no job."""
    for verb in ("submit", "estimate"):
        done = desk.wished(verb, *GPU, "--shards", 2, "--max-gpu-hours", 1.5)
        assert done.returncode == 12, done.stderr
        assert "may use 2 GPU-hours, and its budget is 1.5: not submitted" in done.stderr
        assert "--shards 1 would fit" in done.stderr
        assert desk.left() == []


@pytest.mark.slurm
def test_a_further_round_above_the_budget_ends_the_run_until_it_is_raised(desk: Desk) -> None:
    """The first array takes seconds, and the second could take an hour: incomplete, and why."""
    run = desk.home / "runs" / "turns"
    # Shards that do not wait for a conversation's next turn: each turn is an array of its own.
    turns = (*GPU, "--shards", 1, "--tasks", "lm-eval/turns", "--set", "run.linger=0",
             "--set", "run.plan=inline")  # fmt: skip
    tight = 1.0001  # one round of one shard with two GPUs, and no second of another
    done = desk.wished("submit", *turns, "--run-dir", run, "--max-gpu-hours", tight, "--wait")
    assert done.returncode == 9, done.stdout + done.stderr
    assert "round 2 is planned and there is no score yet" in done.stderr
    assert "used before: at most" in done.stderr
    assert f"evalhpc resume {run} --max-gpu-hours" in done.stderr

    again = desk.evalhpc("resume", run, "--max-gpu-hours", 1)
    assert again.returncode == 12, again.stderr
    assert "its budget is 1: not submitted" in again.stderr
    assert json.loads((run / "failure.json").read_text())["exit_code"] == 12

    raised = desk.evalhpc("resume", run, "--max-gpu-hours", 4)
    assert raised.returncode == 0, raised.stdout + raised.stderr
    assert desk.evalhpc("cancel", run).returncode == 0


def test_a_second_run_is_expected_to_take_what_the_first_took(tmp_path: Path) -> None:
    """Without Slurm: the first run has no history, the next one has it, whatever its shards."""
    site = write_quick_site(tmp_path, "local")
    write_hf(tmp_path / "tiny", tokenizer=False)
    wish = ("--site", site, "--model", tmp_path / "tiny", "--tasks", "lm-eval/ok")

    def evalhpc(*words: object) -> CompletedProcess[str]:
        env = {**os.environ, "EVALHPC_RUN_ROOT": str(tmp_path / "runs")}
        command = [EVALHPC, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=env, check=True)

    first = evalhpc("submit", *wish, "--wait").stdout
    assert "at most   0 GPU-hours; nothing bounds the CPU-hours: a local run" in first
    assert "expected  no earlier run like it here" in first
    expected = json.loads(evalhpc("estimate", *wish, "--shards", 3, "--json").stdout)["expected"]
    assert expected["source"] == "same"
    assert expected["runs"] == [path.name for path in (tmp_path / "runs").iterdir()]
    assert 0 <= expected["load_seconds"] <= expected["shard_seconds"] < expected["seconds"]
