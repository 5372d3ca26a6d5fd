"""Watching a run goes on while Slurm is silent; one resume at a time goes on with it."""

from collections.abc import Iterable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import pytest

from evalhpc.errors import ClusterError, StorageError, UsageError
from evalhpc.slurm.jobs import JobRecord
from evalhpc.workflow.faults.excluded_nodes import ExcludedNodes, excluding
from evalhpc.workflow.record.jobs import Job, record_job, resumes
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit import control
from evalhpc.workflow.watch.status import run_status
from tests.unit.workflow.test_desk import planned


class Silent:
    """A cluster whose controller is away."""

    asked = 0

    def jobs(self, job_ids: Iterable[int]) -> dict[int, list[JobRecord]]:
        """Nothing."""
        self.asked += 1
        raise ClusterError("Unable to contact slurm controller")


def test_a_controller_that_is_away_ends_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the files say is shown on, and Slurm is not asked at every look."""
    slurm = Silent()
    monkeypatch.setattr(control, "scheduler_of", lambda _: slurm)
    monkeypatch.setattr(control, "LOOK", 0.0)
    run = planned(tmp_path, ["model"] * 2)
    record_job(run.paths, "shard", 7, 1, "slurm")
    seen = list(islice(control.watch(run), 4))
    assert {status.state for status in seen} == {"answering"}
    assert slurm.asked == 1


@pytest.fixture
def lockless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that stands still, on a file system whose locks other nodes do not see."""
    monkeypatch.setattr(control, "scheduler_of", lambda _: None)
    monkeypatch.setattr(control, "refuse_moved", lambda _: None)
    monkeypatch.setattr(control, "exclusive", lambda *_: nullcontext())
    run = planned(tmp_path, ["model"] * 2, shards=2)
    run.paths.leases.mkdir()
    return run


def test_a_second_resume_is_refused_at_every_step_of_the_first(
    lockless: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first one has recorded by then makes it no other resume; afterwards one may."""
    submitted: list[int] = []

    def another(*_: object) -> None:
        with pytest.raises(StorageError, match="another `evalhpc resume`"):
            control.resume(lockless)

    def submit(_: Run, round_: int) -> list[Job]:
        another()
        submitted.append(round_)
        return []

    monkeypatch.setattr(control, "merge", another)
    monkeypatch.setattr(control, "launch_round", submit)
    control.resume(lockless)
    control.resume(lockless)
    assert submitted == [1, 1]
    assert resumes(lockless.paths) == 2


def test_a_resume_keeps_the_nodes_out_where_users_start_each_round(
    lockless: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round that it submits does without what the collector chose."""
    site = lockless.spec.site.model_copy(update={"resubmit": False})
    run = Run(lockless.paths, lockless.spec.model_copy(update={"site": site}), lockless.hash)
    chosen = ExcludedNodes(nodes={"n1": ("x", "y")})
    run.paths.excluded_nodes.write_text(chosen.model_dump_json())
    options: list[tuple[str, ...]] = []

    def submit(run: Run, _: int) -> list[Job]:
        options.append(excluding(run))
        return []

    monkeypatch.setattr(control, "merge", lambda _: None)
    monkeypatch.setattr(control, "launch_round", submit)
    control.resume(run)
    assert options == [("--exclude=n1",)]


@pytest.fixture
def elsewhere(lockless: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A local run whose driver was started on another login node."""
    monkeypatch.setattr("evalhpc.workflow.record.jobs.socket.gethostname", lambda: "login1")
    for kind in ("planning", "driver"):
        record_job(lockless.paths, kind, 4_000_000, 0, "local", started="1234")
    monkeypatch.undo()
    monkeypatch.setattr(control, "scheduler_of", lambda _: None)
    monkeypatch.setattr(control, "refuse_moved", lambda _: None)
    monkeypatch.setattr(control, "refuse_copied", lambda _: None)
    return lockless


def test_a_driver_on_another_machine_counts_as_alive(elsewhere: Run) -> None:
    """A second one under the same names would take its work away; the way out is named."""
    status = run_status(elsewhere)
    assert status.state == "answering"
    assert [(job.kind, job.state, job.active) for job in status.jobs] == [
        ("planning", "on login1", False), ("driver", "on login1", True),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"still active \(driver 4000000\)") as caught:
        control.resume(elsewhere)
    assert "on login1, where its driver is" in caught.value.hint
    assert not resumes(elsewhere.paths)


def test_cancel_says_where_a_driver_ends_by_itself(
    elsewhere: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """No process here is ended, whatever has its number; afterwards the run may be resumed."""
    control.cancel(elsewhere)
    assert "was started on login1, and ends there" in caplog.text
    assert run_status(elsewhere).state == "cancelled"
