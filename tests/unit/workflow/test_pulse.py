"""Heartbeats that fail: whoever holds work hears of it, and the next beat is tried."""

from __future__ import annotations

import threading

import pytest

from evalhpc.errors import StorageError
from evalhpc.workflow.record import pulse


@pytest.mark.parametrize("error", [StorageError("full"), OSError(5, "odd"), ValueError("a bug")])
def test_no_error_ends_the_heartbeat_or_stays_unheard(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else others would take a worker for dead that goes on to take work."""
    monkeypatch.setattr(pulse, "BEAT", 0.01)
    beats = 0
    failing, enough = threading.Event(), threading.Event()

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats > 3:
            enough.set()
        if failing.is_set():
            raise error

    failing.set()
    beating = pulse.Pulse(beat)
    beating.start()
    try:
        assert enough.wait(60)
        with pytest.raises(type(error)):
            beating.wait_healthy(0)
        failing.clear()
        beating.wait_healthy(60)
    finally:
        beating.stop()
