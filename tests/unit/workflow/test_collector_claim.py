"""One collector at a time where no lock is seen, and what a killed one costs the next."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from evalhpc.errors import StorageError
from evalhpc.storage.leases import LeaseBook
from evalhpc.workflow.collect import claim as collector_claim
from evalhpc.workflow.collect.claim import alone
from evalhpc.workflow.collect.collect import Collected
from evalhpc.workflow.node import jobs as nodes
from evalhpc.workflow.record import pulse
from evalhpc.workflow.record.run import Run
from tests.unit.workflow.test_desk import planned


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on a file system without locks; its dead are known after a quarter of a second."""
    monkeypatch.setattr(collector_claim, "exclusive", lambda *_, **__: nullcontext())
    monkeypatch.setattr(pulse, "BEAT", 0.02)
    monkeypatch.setattr(collector_claim, "_LOOK", 0.05)
    return planned(tmp_path, ["model"], lease_timeout=0.25)


def test_two_collectors_are_told_apart_without_locks(run: Run) -> None:
    """The second ends with an error, however long it looks; one that comes later goes on."""
    with alone(run) as still_sole:
        with pytest.raises(StorageError, match="another collector of this run"), alone(run):
            pass
        still_sole()
    for _ in range(2):
        with alone(run) as still_sole:
            still_sole()


def test_a_collector_that_was_killed_blocks_nobody_for_long(run: Run) -> None:
    """Its heartbeat stands still: the next one has waited for that, and takes over."""
    dead = LeaseBook(run.paths.collector_leases, "n1-7-x", 60)
    assert dead.next_unit([0]) == 0
    with alone(run) as still_sole:
        still_sole()
    assert not dead.still_mine(0)


def test_a_collector_that_was_taken_for_dead_submits_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that froze, and goes on: the run has another collector by then."""

    def frozen(run: Run, _: int) -> Collected:
        assert LeaseBook(run.paths.collector_leases, "n2-8-y", 0.0).next_unit([0]) == 0
        return Collected("more", 2, 1)

    submitted: list[int] = []
    monkeypatch.setattr(nodes, "open_run", lambda _: run)
    monkeypatch.setattr(nodes, "collect", frozen)
    monkeypatch.setattr(nodes, "_go_on", lambda *_, **__: submitted.append(2))
    assert nodes.collecting(run.paths.root, 1) == StorageError.exit_code
    assert submitted == []
