"""What was asked to end ends, whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from evalhpc.workflow.record.signals import Interrupted, interruptible


def _busy() -> None:
    with interruptible():
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")


def test_a_signal_is_not_swallowed_by_who_handles_every_exception() -> None:
    """As logging does while it writes a line."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
        _busy()
    assert signal.getsignal(signal.SIGTERM) is before
