"""When the driver of a local run ends while it waits."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalhpc.workflow.node import local_cluster
from evalhpc.workflow.node.driver import drive
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import INTERRUPTED
from tests.unit.workflow.test_walltime import run_in


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run; the driver's handlers of signals are taken off again."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in numbers}
    yield run_in(tmp_path / "run")
    for number, handler in previous.items():
        signal.signal(number, handler)


def test_a_driver_that_waits_for_room_ends_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evalhpc cancel` waits for it, and a cancelled run has not failed."""

    def wait(_: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it waits on")

    monkeypatch.setattr(local_cluster, "await_room", wait)
    assert drive(run, "planning") == INTERRUPTED
    assert not run.paths.failure.exists()


def test_a_driver_that_was_asked_to_end_does_not_begin_to_wait(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal came between two scripts."""

    def asked(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(local_cluster, "await_room", lambda _: pytest.fail("it waits"))
    monkeypatch.setattr("evalhpc.workflow.node.driver._call", asked)
    assert drive(run, "planning") == INTERRUPTED
