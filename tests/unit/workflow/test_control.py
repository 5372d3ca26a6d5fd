"""Watching a run goes on while Slurm is silent."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

from evalhpc.errors import ClusterError
from evalhpc.slurm.jobs import JobRecord
from evalhpc.workflow import control
from evalhpc.workflow.jobs import record_job
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
