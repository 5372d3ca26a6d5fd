"""Requests that a model server never answers: a run ends soon, or says how many it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import evalhpc
from tests.models.checkpoints import write_hf


def submit(folder: Path, task: str, mode: str, *settings: str) -> tuple[Path, int, str]:
    """(run directory, exit code, what stderr says) of a run with two shards."""
    run = folder / "run"
    words = [word for setting in settings for word in ("--set", setting)]
    done = evalhpc(
        "submit", "--site", write_quick_site(folder, "local"), "--model",
        write_hf(folder / "tiny", tokenizer=False), "--tasks", task, "--run-dir", run,
        "--shards", 2, "--set", f"deploy.extra_args=[{mode}]", "--set", "run.request_retries=0",
        *words, "--wait",
    )  # fmt: skip
    return run, done.returncode, done.stderr


def listed(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("mode", "reason", "rounds"), [("poison", "HTTP 500", [1, 2, 3]), ("teapot", "HTTP 418", [1])]
)
def test_a_request_that_always_fails_ends_the_run_soon(
    tmp_path: Path, mode: str, reason: str, rounds: list[int]
) -> None:
    """One of eight gets 500s in three rounds, or one reply that will not change: no score."""
    run, code, said = submit(tmp_path, "lm-eval/ok", mode)
    assert code == 9
    assert "1 of 8 requests of ok failed for good: there is no score" in said
    assert reason in said
    assert sorted(path.name for path in (run / "plan").iterdir()) == list(map(str, rounds))
    (failed,) = listed(run)
    assert (failed["benchmark"], failed["endpoint"], failed["path"], failed["rounds"]) == (
        "ok", "model", "/completions", rounds,
    )  # fmt: skip
    assert reason in failed["reason"]
    assert "1 of 8" in json.loads((run / "failure.json").read_text())["what"]
    assert not (run / "certificate.json").exists()


def test_failures_within_the_limit_are_published_with_their_list(tmp_path: Path) -> None:
    """The scores are there, but everything that shows them says that a request lacks."""
    run, code, said = submit(tmp_path, "lm-eval/patient", "teapot", "run.max_failures=0.125")
    assert code == 11, said
    assert "1 of 8 requests failed" in said
    certificate = json.loads((run / "certificate.json").read_text())
    assert certificate["failed"] == [failed["key"] for failed in listed(run)]
    counts = certificate["counts"]
    assert (counts["planned"], counts["answered"], counts["failed"]) == (8, 7, 1)
    assert "**1 of 8 requests failed**" in (run / "report.md").read_text()
    results = evalhpc("results", run)
    assert results.returncode == 11
    assert "length" in results.stdout
    assert "1 of 8 requests failed" in results.stderr
    assert "given up   requests: 1, see failures.jsonl" in evalhpc("status", run).stdout
    verified = evalhpc("verify", run, "--replay")
    assert verified.returncode == 0, verified.stderr
    assert "1 failed" in verified.stdout


def test_failures_above_the_limit_are_no_score(tmp_path: Path) -> None:
    """Two failed of eight are more than an eighth."""
    run, code, said = submit(tmp_path, "lm-eval/patient", "teapots", "run.max_failures=0.125")
    assert code == 9
    assert "2 of 8 requests of patient failed for good (run.max_failures: 0.125)" in said
    assert "run.max_failures=0.25" in said
    assert evalhpc("results", run).returncode == 9


def test_a_benchmark_that_is_final_is_not_run_again(tmp_path: Path) -> None:
    """Beside one of three turns, one of a single turn has its scores from the first pass on."""
    run, code, said = submit(tmp_path, "lm-eval/ok,lm-eval/turns", "")
    assert code == 0, said
    ran = {path.name: sorted(b.name for b in path.iterdir()) for path in run.glob("passes/*")}
    assert ran == {"0": ["ok", "turns"], "1": ["ok", "turns"], "2": ["turns"], "3": ["turns"]}
    assert json.loads((run / "certificate.json").read_text())["final_pass"] == 3
    assert evalhpc("verify", run, "--replay").returncode == 0
