"""Faults on a real Slurm cluster: of every shard, of a node, and of the controller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.integration.cluster import DevCluster
from tests.integration.login_desk import EVALHPC, PATH, desk_in

pytestmark = pytest.mark.slurm


@dataclass(frozen=True)
class Place:
    """The ordinary user's home with a quick site, and their command line on the login node."""

    cluster: DevCluster
    home: Path

    def evalhpc(self, *words: object, **env: str) -> CompletedProcess[str]:
        command = [EVALHPC, *map(str, words)]
        return self.cluster.exec(command, cwd=self.home, env={"PATH": PATH, **env}, timeout=400)

    def submit(self, run: Path, server: str, *words: object) -> CompletedProcess[str]:
        return self.evalhpc(
            "submit", "--site", self.home / "quick.yaml", "--model", self.home / "tiny",
            "--tasks", "lm-eval/ok", "--run-dir", run, "--set", "run.unit_size=1",
            "--set", f"deploy.extra_args=[{server}]", *words, "--wait",
        )  # fmt: skip

    def status(self, run: Path, **env: str) -> tuple[int, dict[str, Any]]:
        done = self.evalhpc("status", run, "--json", **env)
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(cluster: DevCluster) -> Iterator[Place]:
    with desk_in(cluster, "faults") as desk:
        yield Place(desk.cluster, desk.home)


def tried(run: Path, round_: int) -> int:
    """Servers that were started in a round."""
    return len(list((run / "logs").glob(f"server-{round_}-*.log")))


def test_a_fault_of_every_shard_burns_neither_the_array_nor_further_rounds(place: Place) -> None:
    """Of eight tasks that start in turn three try, the others are called off; a second node is
    tried once, and then the cause is said."""
    run = place.home / "every"
    done = place.submit(
        run, f"needs, {place.home / 'none'}", "--shards", 8, "--set", "slurm.array_throttle=1"
    )
    assert done.returncode == 7, done.stderr
    assert "3 shards failed alike" in done.stderr
    assert "the weights are not there" in done.stderr
    rounds = sorted(int(path.name) for path in (run / "plan").iterdir())
    assert rounds in ([1], [1, 2])
    for round_ in rounds:
        assert 3 <= tried(run, round_) <= 4
    started = len(list((run / "logs").glob("shard-*_*.log")))
    assert started <= 4 * len(rounds)
    assert place.status(run)[1]["excluded_nodes"] == {}


def test_the_next_round_does_without_a_node_that_failed_twice(place: Place) -> None:
    """A node whose servers never start takes every task of round 1, and none of round 2."""
    run, curse = place.home / "node", place.home / "curse"
    done = place.submit(
        run, f"cursed, {curse}", "--shards", 3, "--set", "slurm.extra=[--exclude=n4]"
    )
    assert done.returncode == 0, done.stderr
    assert place.evalhpc("verify", run).returncode == 0
    bad = str(curse.readlink())
    _, status = place.status(run)
    failed = [shard for shard in status["failed_shards"] if shard["node"] == bad]
    assert len(failed) >= 2
    assert list(status["excluded_nodes"]) == [bad]
    assert all(why.startswith("round 1: shard ") for why in status["excluded_nodes"][bad])
    arrays = [job["id"] for job in status["jobs"] if job["kind"] == "shard"]
    shown = place.cluster.exec(["scontrol", "show", "job", str(arrays[-1])], check=True).stdout
    both = "n[3-4]" if bad == "n3" else f"n[{bad[1:]},4]"
    assert f"ExcNodeList={both}" in shown
    assert f"excluded   {bad}" in place.evalhpc("status", run).stdout


def test_status_of_a_run_while_the_controller_is_away(place: Place) -> None:
    """The files say what they can, Slurm's silence is said, and the exit code is 5; a complete run
    needs no Slurm."""
    run, conf = place.home / "away", place.home / "away.conf"
    assert place.submit(run, "", "--shards", 2).returncode == 0
    shown = place.cluster.exec(["cat", "/etc/slurm/slurm.conf"], check=True).stdout
    conf.write_text(shown + "SlurmctldPort=1\n")
    code, status = place.status(run, SLURM_CONF=str(conf))
    assert (code, status["state"], status["answered"]) == (0, "complete", 8)
    (run / "certificate.json").unlink()
    code, status = place.status(run, SLURM_CONF=str(conf))
    assert (code, status["answered"], status["units_done"]) == (5, 8, 8)
    assert "Unable to contact slurm controller" in status["scheduler"]
    assert {job["state"] for job in status["jobs"]} == {"?"}
    assert "as Slurm did not answer" in place.evalhpc("status", run, SLURM_CONF=str(conf)).stdout
