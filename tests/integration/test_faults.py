"""Faults that every shard meets, users who hurry, and run directories that are not where they
were: what a run decides then."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.cluster import wait_until
from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import EVALHPC, evalhpc
from tests.models.checkpoints import write_hf


def submit(
    folder: Path, server: str = "", *words: object, idle: str = ""
) -> subprocess.CompletedProcess[str]:
    """A run in `folder`/run with one request a unit; `server` are words for the quick server.

    The template `idle` ends with 0 before it did anything.
    """
    site = write_quick_site(folder, "local")
    if idle:
        template = folder / "templates" / idle
        template.write_text("exit 0\n" + template.read_text())
    return evalhpc(
        "submit", "--site", site, "--model",
        write_hf(folder / "tiny", tokenizer=False), "--tasks", "lm-eval/ok", "--run-dir",
        folder / "run", "--set", "run.unit_size=1", "--set", f"deploy.extra_args=[{server}]",
        *words,
    )  # fmt: skip


def shard(run: Path, number: int) -> subprocess.CompletedProcess[str]:
    """One more task of round 1, started by hand."""
    env = {**os.environ, "EVALHPC_SHARD": str(number)}
    script = run / "scripts" / "shard.sbatch"
    return subprocess.run(
        ["bash", script, "1"], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def ended_by(run: Path, number: signal.Signals) -> int:
    """Exit code of shard 0, started by hand, that gets a signal while its model loads."""
    log = run / "logs" / "server-1-0.log"
    log.unlink()
    env = {**os.environ, "EVALHPC_SHARD": "0"}
    child = subprocess.Popen(["bash", run / "scripts" / "shard.sbatch", "1"], env=env)
    try:
        for _ in range(600):
            if log.exists() or child.poll() is not None:
                break
            time.sleep(0.05)
        child.send_signal(number)
        return child.wait(30)
    finally:
        child.kill()


def jobs(run: Path, kind: str) -> list[dict[str, object]]:
    records = map(json.loads, (run / "jobs.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == kind]


def test_a_fault_that_every_shard_meets_stops_the_run_and_resume_begins_anew(
    tmp_path: Path,
) -> None:
    """Further shards start no server and end with 13; once it is put right, resume goes on."""
    weights = tmp_path / "weights"
    done = submit(tmp_path, f"needs, {weights}", "--shards", 4, "--wait")
    assert done.returncode == 7, done.stderr
    assert done.stderr.count("shards failed alike") == 1
    assert "the weights are not there" in done.stderr
    run = tmp_path / "run"
    late = shard(run, 9)
    assert late.returncode == 13, late.stderr
    assert "not begun: " in late.stderr
    assert f"evalhpc resume {run}" in late.stderr
    assert not (run / "logs" / "server-1-9.log").exists()
    weights.touch()
    done = evalhpc("resume", run, "--wait")
    assert done.returncode == 0, done.stderr
    assert evalhpc("verify", run).returncode == 0


def test_a_shard_that_is_asked_to_end_has_a_code_of_its_own(tmp_path: Path) -> None:
    """75 after the signal of a walltime or a preemption, which no killed process has."""
    done = submit(tmp_path, "die", "--shards", 1, "--wait")
    assert done.returncode == 7, done.stderr
    run = tmp_path / "run"
    (run / "scripts" / "server.sh").write_text("exec sleep 600\n")
    assert ended_by(run, signal.SIGUSR1) == 75
    assert ended_by(run, signal.SIGTERM) == 75
    assert len(list((run / "journals").glob("0001-00000-*.failures.jsonl"))) == 1


def test_two_who_resume_at_once_start_one_array(tmp_path: Path) -> None:
    """Of four processes that resume a cancelled run at the same moment, one does."""
    assert submit(tmp_path, "hang", "--shards", 1).returncode == 0
    run = tmp_path / "run"
    assert evalhpc("cancel", run).returncode == 0
    drivers = len(jobs(run, "driver"))
    racing = [
        subprocess.Popen(
            [EVALHPC, "resume", run], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = [(child.communicate(timeout=60)[1], child.returncode) for child in racing]
    assert evalhpc("cancel", run).returncode == 0
    assert sorted(code for _, code in said).count(0) == 1
    for text, code in said:
        assert code in (0, 2, 6), text
        assert not code or "is at work" in text or "still active" in text
    assert len(jobs(run, "driver")) == drivers + 1
    assert len(jobs(run, "resume")) == 1


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is complete."""
    folder = tmp_path_factory.mktemp("complete")
    done = submit(folder, "", "--shards", 2, "--wait")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_second_collector_waits_for_the_first(complete: Path, tmp_path: Path) -> None:
    """While one is at work, from the merge to the next submission, another decides nothing."""
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    (run / "certificate.json").unlink()
    words = ["node", "collect", "--run-dir", str(run), "--round", "1"]
    said = tmp_path / "said"
    with (run / "collect.lock").open("a") as lock, said.open("w") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen([sys.executable, "-m", "evalhpc", *words], stderr=log)
        busy = "another collector of this run is at work: waiting for it"
        try:
            wait_until(lambda: busy in said.read_text(), timeout=30, what="it waits")
            assert child.poll() is None
            assert not (run / "certificate.json").exists()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert child.wait(60) == 0, said.read_text()
        finally:
            child.kill()
            child.wait()
    assert (run / "certificate.json").exists()
    assert not (run / "failure.json").exists()


def test_a_copy_or_a_moved_run_is_read_and_not_steered(complete: Path, tmp_path: Path) -> None:
    """All that reads works and says where the run was; the copy's jobs are the original's."""
    home, copy, moved = (tmp_path / name for name in ("home", "copy", "moved"))
    shutil.copytree(complete, home)
    record = json.loads((home / "provenance.json").read_text())
    (home / "provenance.json").write_text(json.dumps(record | {"run_dir": str(home)}))
    shutil.copytree(home, copy)
    for verb in ("results", "verify", "explain", "logs", "merge"):
        assert evalhpc(verb, copy).returncode == 0, verb
    assert f"moved or copied from {home}" in evalhpc("status", copy).stdout.replace("\n", " ")
    (copy / "certificate.json").unlink()
    for verb in ("cancel", "resume"):
        refused = evalhpc(verb, copy)
        assert refused.returncode == 2
        assert f"evalhpc {verb} {home}" in refused.stderr
    assert not (copy / "cancelled").exists()
    home.rename(moved)
    (moved / "certificate.json").unlink()
    assert evalhpc("status", moved).returncode == 0
    assert evalhpc("cancel", moved).returncode == 0


@contextmanager
def read_only(folder: Path, at: Path) -> Iterator[Path]:
    """The folder once more, where nobody can write into it."""
    at.mkdir()
    subprocess.run(["mount", "--bind", folder, at], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", at], check=True)
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_run_directory_is_read(complete: Path, tmp_path: Path) -> None:
    """What only looks works; what would write says why it cannot."""
    with read_only(complete, tmp_path / "ro") as run:
        for verb in ("status", "results", "verify", "logs", "explain"):
            done = evalhpc(verb, run)
            assert done.returncode == 0, done.stderr
        done = evalhpc("merge", run)
        assert done.returncode == 6
        assert "mounted read-only" in done.stderr


@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ("planning", 0, ""),  # a shard finds nothing planned, and runs pass 0 itself
        ("harness/lm-eval.sh.j2", 8, "the harness of ok asked nothing in pass 0"),
        ("deploy/hf.sh.j2", 7, "ended (exit code 0) before it answered"),
        ("shard", 9, "round 1 answered none of its 8 requests"),
        ("collect", 9, "the run ended without a score: it is stalled"),
        ("deploy", 7, "no deployment job of this run was ready"),
    ],
)
def test_a_step_that_reports_success_and_did_nothing_is_not_believed(
    tmp_path: Path, kind: str, code: int, says: str
) -> None:
    """A script that ends with 0 at once, as after a crash of its node, makes no score."""
    setup = f"environment.setup=['case $0 in *{kind}.s*) exit 0;; esac']"
    words = ["--set", setup, "--set", "run.ready_timeout=5", "--shards", 1, "--wait"]
    if kind == "deploy":
        words += ["--set", "deploy.topology=job"]
    done = submit(tmp_path, "", *words, idle=kind if "/" in kind else "")
    run = tmp_path / "run"
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert (run / "certificate.json").exists() == (code == 0)
    assert evalhpc("verify" if code == 0 else "results", run).returncode == (9 if code else 0)
