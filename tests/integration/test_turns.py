"""Multi-turn benchmarks settle by further passes, inside one array, beside warm models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.cluster import wait_until
from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import evalhpc
from tests.models import tiny

pytestmark = pytest.mark.server


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return write_quick_site(folder, "local")


@pytest.mark.parametrize(("plan", "kinds"), [("job", ["planning"]), ("inline", [])])
def test_three_turns_settle_in_one_array_and_load_each_model_once(
    plan: str, kinds: list[str], site: Path, tmp_path: Path
) -> None:
    """Each turn's questions depend on the last turn's answers: four passes, three rounds."""
    run_dir = tmp_path / "run"
    done = evalhpc(
        "submit", "--site", site, "--model", tiny.build(tmp_path / "tiny"), "--tasks",
        "lm-eval/turns", "--run-dir", run_dir, "--shards", 2, "--set", f"run.plan={plan}", "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = [json.loads(line) for line in (run_dir / "jobs.jsonl").read_text().splitlines()]
    assert [job["kind"] for job in jobs] == ["driver", *kinds, "shard", "shard", "collect"]
    assert len(list((run_dir / "logs").glob("server-*.log"))) <= 2
    certificate = json.loads((run_dir / "certificate.json").read_text())
    assert certificate["final_pass"] == 3
    assert certificate["counts"]["planned"] == certificate["counts"]["answered"] == 24
    replayed = evalhpc("verify", run_dir, "--replay")
    assert replayed.returncode == 0, replayed.stderr
    assert "the same scores and samples" in replayed.stdout


def test_a_harness_that_asks_anew_each_time_is_named(site: Path, tmp_path: Path) -> None:
    """Questions that no answer explains mean a harness that never settles: no score."""
    run_dir = tmp_path / "run"
    done = evalhpc(
        "submit", "--site", site, "--model", tiny.build(tmp_path / "tiny"), "--tasks",
        "lm-eval/restless", "--run-dir", run_dir, "--shards", 2, "--wait",
    )  # fmt: skip
    assert done.returncode == 10
    assert "restless does not settle" in done.stderr
    assert not (run_dir / "certificate.json").exists()


def test_an_answer_that_damage_took_away_is_asked_again(site: Path, tmp_path: Path) -> None:
    """Its question is no new one, though a pass that had its answer went before."""
    run_dir = tmp_path / "run"
    done = evalhpc(
        "submit", "--site", site, "--model", tiny.build(tmp_path / "tiny"), "--tasks",
        "lm-eval/turns", "--run-dir", run_dir, "--shards", 1, "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    driver = json.loads((run_dir / "jobs.jsonl").read_text().splitlines()[0])["id"]
    wait_until(lambda: not Path(f"/proc/{driver}").exists(), timeout=10, what="the driver ended")
    scores = (run_dir / "results" / "results.yml").read_bytes()
    journal = run_dir / "journals" / "0001-00000-000.journal"
    os.truncate(journal, journal.stat().st_size - 5)
    for name in ("certificate.json", "store.h5"):  # as if the last collector had been killed
        (run_dir / name).unlink()
    done = evalhpc("resume", run_dir, "--wait")
    assert done.returncode == 0, done.stderr
    counts = json.loads((run_dir / "certificate.json").read_text())["counts"]
    assert (counts["planned"], counts["answered"], counts["rounds"]) == (24, 24, 4)
    assert (run_dir / "results" / "results.yml").read_bytes() == scores


@pytest.mark.parametrize("miss", ["forward", "wait"])
@pytest.mark.parametrize(("task", "requests"), [("turns", 24), ("restless", 8)])
def test_the_model_may_answer_during_the_pass(
    task: str, requests: int, miss: str, site: Path, tmp_path: Path
) -> None:
    """One live pass is the result, even of a harness that never asks the same twice."""
    run_dir = tmp_path / "run"
    done = evalhpc(
        "submit", "--site", site, "--model", tiny.build(tmp_path / "tiny"), "--tasks",
        f"lm-eval/{task}", "--run-dir", run_dir, "--miss", miss, "--shards", 2, "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    certificate = json.loads((run_dir / "certificate.json").read_text())
    counts = certificate["counts"]
    assert certificate["final_pass"] == 0
    assert counts["planned"] == counts["answered"] == requests
    assert counts["duplicates"] == 0  # no shard asks again what was answered live
    assert counts["passes"] == 1
    assert evalhpc("verify", run_dir).returncode == 0


def test_a_waiting_pass_that_failed_is_run_again_after_a_resume(site: Path, tmp_path: Path) -> None:
    """Its cause may be mended by then; here it is not, and the run says so again."""
    run_dir = tmp_path / "run"
    done = evalhpc(
        "submit", "--site", site, "--model", tiny.build(tmp_path / "tiny"), "--tasks",
        "lm-eval/fails", "--run-dir", run_dir, "--miss", "wait", "--shards", 1, "--wait",
    )  # fmt: skip
    assert done.returncode == 8, done.stderr
    resumed = evalhpc("resume", run_dir, "--wait")
    assert resumed.returncode == 8, resumed.stderr
    assert "Tasks not found: fails" in resumed.stderr
    assert len(list((run_dir / "plan" / "queue").iterdir())) == 2


def test_a_pass_that_dies_with_its_shard_is_taken_up_by_another(site: Path, tmp_path: Path) -> None:
    """With `wait` the answers that were journalled are kept, and the harness runs anew."""
    run_dir = tmp_path / "run"
    done = evalhpc(
        "submit", "--site", site, "--model", tiny.build(tmp_path / "tiny"), "--tasks",
        "lm-eval/turns", "--run-dir", run_dir, "--miss", "wait", "--shards", 2, "--set",
        "deploy.extra_args=[slow]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    progress = run_dir / "passes" / "0" / "turns" / "progress.json"
    _wait_for(lambda: progress.exists() and json.loads(progress.read_text())["asked"] > 2)
    passes = _processes(f"node pass --run-dir {run_dir} ")  # one, and the life of it
    (shard,) = {_parent(pass_) for pass_ in passes} - {*passes}
    below = _children(shard)  # the pass, its harness, and the model server
    for pid in (shard, *below):
        os.kill(pid, signal.SIGKILL)
    _wait_for((run_dir / "certificate.json").exists)
    counts = json.loads((run_dir / "certificate.json").read_text())["counts"]
    assert counts["planned"] == counts["answered"] == 24
    assert counts["duplicates"] <= 1  # what was in flight
    assert len(list((run_dir / "plan" / "queue").iterdir())) == 2


def _wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)


def _processes(words: str) -> list[int]:
    found = subprocess.run(["pgrep", "-f", words], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def _children(pid: int) -> list[int]:
    """Those of this process, their own children first."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    direct = [int(child) for child in found.stdout.split()]
    return [*(below for child in direct for below in _children(child)), *direct]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
