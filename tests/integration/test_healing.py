"""Runs that go on by themselves after a planning job or a collector was lost, on this machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import evalhpc
from tests.models.checkpoints import write_hf

#: In a job's script, before anything of ours begins: once, it is killed.
_ONCE = "case $0 in *{kind}.sbatch) [[ -e {mark} ]] || {{ : >{mark}; kill -KILL $$; }};; esac"
#: In a harness's script: once, in pass 0, what is above it is killed, the gateway.
_ABOVE = (
    "if [[ $EVALHPC_OUTPUT_DIR == */passes/0/* ]] && mkdir {mark} 2>/dev/null; then\n"
    "  kill -KILL $PPID\n  sleep 60\nfi\n"
)


def submit(
    folder: Path, *words: object, setup: str = "", harness: str = ""
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of the quick site; jobs begin with the line `setup`, harnesses with `harness`."""
    site, run = write_quick_site(folder, "local"), folder / "run"
    if setup:
        with site.open("a") as file:
            file.write(f"environment: {json.dumps({'setup': [setup]})}\n")
    template = folder / "templates" / "harness" / "lm-eval.sh.j2"
    template.write_text(harness + template.read_text())
    model = write_hf(folder / "tiny", tokenizer=False)
    command = ["submit", "--site", site, "--model", model, "--tasks", "lm-eval/ok"]
    return run, evalhpc(*command, "--run-dir", run, "--shards", 1, *words, "--wait")


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(evalhpc("status", run, "--json").stdout)
    return found


def test_what_is_killed_once_is_begun_again(tmp_path: Path) -> None:
    """kill -9 of the process that the harness asks in pass 0, and of the collector's script as a
    whole: nobody resumes, and `status` says what was run again."""
    gateway, script = tmp_path / "gateway", tmp_path / "script"
    setup = _ONCE.format(kind="collect", mark=script)
    run, done = submit(tmp_path, setup=setup, harness=_ABOVE.format(mark=gateway))
    assert gateway.is_dir()
    assert script.is_file()
    assert done.returncode == 0, done.stderr
    log = (run / "logs" / "planning-0.log").read_text()
    assert "killed by SIGKILL (out of memory?), 1 of 3: it is begun again" in log
    jobs = [job for job in status(run)["jobs"] if job["kind"] == "collect"]
    assert [bool(job["again"]) for job in jobs] == [False, True]
    assert "submitted by the run itself" in evalhpc("status", run).stdout
    assert evalhpc("verify", run).returncode == 0


@pytest.mark.long
def test_what_is_killed_each_time_is_given_up(tmp_path: Path) -> None:
    """Three lives a job, and no job again where the cause is known: code 13 with the cause."""
    harness = "[[ $EVALHPC_OUTPUT_DIR == */passes/1/* ]] && kill -KILL $PPID && sleep 60\n"
    run, done = submit(tmp_path, harness=harness)
    assert done.returncode == 13, done.stderr
    assert "the collect job was killed 3 times by SIGKILL" in done.stderr
    assert len(list((run / "passes" / "1").glob("ok.interrupted-*"))) == 2
    assert [job["kind"] for job in status(run)["jobs"]].count("collect") == 1
