"""What follows a collector that was asked to end, and that nothing follows a run that is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from evalhpc.errors import FutileError, UsageError
from evalhpc.slurm.jobs import JobRecord
from evalhpc.storage.leases import LeaseBook
from evalhpc.workflow.collect import claim
from evalhpc.workflow.collect.claim import alone
from evalhpc.workflow.node import driver, succession
from evalhpc.workflow.node.local_cluster import LocalCluster
from evalhpc.workflow.node.script_call import ScriptCall
from evalhpc.workflow.record.jobs import AGAIN, record_job, recorded_jobs
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.herald import is_over
from evalhpc.workflow.submit import launch as launching
from tests.unit.workflow.test_healing import failure_code, submitted
from tests.unit.workflow.test_walltime import plan, run_in

#: Scripts that do nothing, and say so.
ENDS_WELL = cast("LocalCluster", SimpleNamespace(run=lambda *_: [0]))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path / "run")


@pytest.fixture
def asked_to_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Jobs submitted by collector 7 of round 1 that was asked to end, in a job with restarts."""

    def hand_over(restarts: int = 0) -> list[str]:
        found: list[str] = []

        class Known:
            def jobs(self, _: list[int]) -> dict[int, list[JobRecord]]:
                return {7: [JobRecord(7, restarts=restarts)]}

        def launch(run: Run, round_: int, after: list[int], again: str) -> None:
            record_job(run.paths, "collect", 8, round_, "slurm", again=again)
            found.append(f"round {round_} after {after}")

        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setattr(succession, "open_run", lambda _: run)
        monkeypatch.setattr(succession, "slurm_here", Known)
        monkeypatch.setattr(succession, "launch_collect", launch)
        succession.hand_over(run.paths.root, 1)
        return found

    return hand_over


def test_a_collector_that_is_asked_to_end_leaves_a_successor(
    run: Run, asked_to_end: Callable[..., list[str]]
) -> None:
    """One, which waits for its end; none where Slurm starts it again, or it had decided."""
    submitted(run, "collect", 1)
    assert asked_to_end(restarts=1) == []
    assert asked_to_end() == ["round 1 after [7]"]
    assert asked_to_end() == []
    plan(run, 2, 10)
    submitted(run, "collect", 2)
    assert asked_to_end() == []


def test_a_cancelled_run_gets_no_successor(
    run: Run, asked_to_end: Callable[..., list[str]]
) -> None:
    """`evalhpc cancel` marks the run before it ends the jobs."""
    submitted(run, "collect", 1)
    run.paths.cancelled.touch()
    assert asked_to_end() == []


def test_successors_end_with_the_budget(run: Run, asked_to_end: Callable[..., list[str]]) -> None:
    """And the run says so: 13."""
    for _ in range(1 + AGAIN):
        submitted(run, "collect", 1)
    assert asked_to_end() == []
    assert failure_code(run) == 13


def test_a_killed_collectors_next_life_does_not_wait_for_its_lease(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same start of the same job; after a requeue it does."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    dead = LeaseBook(run.paths.collector_leases, claim._worker(), 60)
    assert dead.next_unit([0]) == 0
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    with alone(run) as still_sole:
        still_sole()
    assert not dead.still_mine(0)
    first = claim._worker()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert claim._worker() != first


def unseen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there, and that this node believes absent, as NFS does for up to a minute."""
    path.touch()
    exists, lexists = Path.exists, os.path.lexists
    monkeypatch.setattr(Path, "exists", lambda other: other != path and exists(other))
    monkeypatch.setattr(os.path, "lexists", lambda other: Path(other) != path and lexists(other))


@pytest.mark.parametrize("name", ["certificate", "cancelled", "failure"])
def test_a_run_is_over_also_where_another_node_has_just_said_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`evalhpc cancel` marks the run, then asks its collector to end, which sees the mark."""
    assert not is_over(run)
    unseen(getattr(run.paths, name), monkeypatch)
    assert is_over(run)


def test_nothing_is_submitted_for_a_run_that_was_just_cancelled(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where this node has not heard of it: `cancel` has listed the jobs by then."""
    monkeypatch.setattr(launching, "slurm_here", lambda: pytest.fail("it submits"))
    unseen(run.paths.cancelled, monkeypatch)
    with pytest.raises(UsageError, match="the run was cancelled"):
        launching.launch_collect(run, 1)


def test_a_cancelled_run_whose_successor_was_refused_has_not_failed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark came while it was being submitted."""

    def refuse(*_: object) -> None:
        unseen(run.paths.cancelled, monkeypatch)
        raise UsageError("the run was cancelled")

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(succession, "open_run", lambda _: run)
    monkeypatch.setattr(succession, "_hand_over", refuse)
    succession.hand_over(run.paths.root, 1)
    assert not run.paths.failure.exists()


def test_a_local_driver_starts_no_array_for_a_cancelled_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one for a run that its collector has completed."""
    plan(run, 1, 1)
    assert driver._collect(run, ENDS_WELL) == (0, True)
    unseen(run.paths.cancelled, monkeypatch)
    assert driver._collect(run, ENDS_WELL) == (0, False)


@pytest.mark.parametrize("kind", ["planning", "collect"])
def test_a_script_that_is_killed_each_time_is_given_up(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A local run begins it three times, with the reason on record, and ends with 13."""

    def kill(calls: list[ScriptCall], again: str = "") -> list[int]:
        record_job(run.paths, calls[0].kind, 7, calls[0].round, "local", again=again)
        return [137]

    monkeypatch.setattr(driver, "LocalCluster", lambda _: SimpleNamespace(run=kill))
    assert driver.drive(run, kind) == FutileError.exit_code
    assert f"the {kind} script was ended by a signal 3 times" in run.paths.failure.read_text()
    known = recorded_jobs(run.paths)
    assert [(job.kind, bool(job.again)) for job in known] == [(kind, n > 0) for n in range(3)]
