"""Runs on a real Slurm cluster that go on by themselves after single jobs of theirs were lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import PATIENCE, DevCluster, wait_until
from tests.integration.login_desk import Desk, desk_in

pytestmark = pytest.mark.slurm

#: In a harness's script: the first one of pass N in a run directory called `held-in-N…` stays;
#: one in `kills-in-N` kills the gateway above it instead.
_HARNESS = """\
run={{ run_dir }}
if [[ $run == *-in-* && $EVALHPC_OUTPUT_DIR == */passes/"${run#*-in-}"/* ]] && mkdir "$run/held"
then
  [[ $run != *kills* ]] || kill -KILL $PPID
  sleep 600
fi
"""


@pytest.fixture(scope="module")
def desk(cluster: DevCluster) -> Iterator[Desk]:
    with desk_in(cluster, "healing") as desk:
        template = desk.home / "templates" / "harness" / "lm-eval.sh.j2"
        template.write_text(_HARNESS + template.read_text())
        yield desk


def status(desk: Desk, run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(desk.evalhpc("status", run, "--json").stdout)
    return found


def cancelled_in_pass(desk: Desk, run: Path, kind: str) -> None:
    """scancel of the job of this kind, once its harness is at work."""
    wait_until((run / "held").is_dir, timeout=30, what=f"the harness of {run.name} is at work")
    recorded = map(json.loads, (run / "jobs.jsonl").read_text().splitlines())
    job = next(job["id"] for job in recorded if job["kind"] == kind)
    desk.cluster.exec(["scancel", str(job)], check=True)


@pytest.mark.parametrize(
    ("name", "kind", "again"),
    [
        ("held-in-0", "planning", ["planning", "shard", "collect"]),
        pytest.param("held-in-1", "collect", ["collect"], marks=pytest.mark.long),
        pytest.param("kills-in-1", "collect", [], marks=pytest.mark.long),
    ],
)
def test_a_run_goes_on_after_a_job_was_lost(
    desk: Desk, name: str, kind: str, again: list[str]
) -> None:
    """Planning or the collector cancelled as a single job, or killed within it: nobody resumes."""
    run = desk.home / name
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(desk.submit, run, "--shards", 1, "--wait")
        if name.startswith("held"):
            cancelled_in_pass(desk, run, kind)
        ended = done.result()
    assert ended.returncode == 0, ended.stderr
    assert desk.evalhpc("verify", run).returncode == 0
    jobs = status(desk, run)["jobs"]
    assert [job["kind"] for job in jobs if job["again"]] == again
    wait_until(lambda: desk.queue() == [], timeout=30, what="no job is left")


@pytest.mark.long
def test_a_cancelled_run_does_not_go_on(desk: Desk) -> None:
    """`evalhpc cancel` reaches what the run submitted by itself, and nothing follows."""
    run = desk.home / "cancelled-in-0"
    assert desk.submit(run, "--shards", 1).returncode == 0
    cancelled_in_pass(desk, run, "planning")
    (run / "held").rmdir()
    wait_until((run / "held").is_dir, timeout=30 * PATIENCE, what="planning is there again")
    assert desk.evalhpc("cancel", run).returncode == 0
    wait_until(lambda: desk.queue() == [], timeout=30, what="no job is left")
    found = status(desk, run)
    assert found["state"] == "cancelled"
    assert [job["kind"] for job in found["jobs"] if job["again"]].count("planning") == 1
