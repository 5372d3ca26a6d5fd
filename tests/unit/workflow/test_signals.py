"""What was asked to end ends, whatever it is doing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from evalhpc.workflow.record.signals import Interrupted, interruptible, until_signalled


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


def test_a_further_signal_does_not_disturb_who_puts_everything_in_order() -> None:
    """scancel tells every process of a job, and a parent passes on what it is told."""
    done = []

    def busy() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                done.append(True)

    with pytest.raises(Interrupted, match="SIGTERM"):
        busy()
    assert done == [True]


def test_only_the_first_signal_cancels_a_coroutine() -> None:
    """What it still does afterwards is not cancelled."""
    done = []

    async def busy() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(10):
                await asyncio.sleep(0)
            done.append(True)

    with pytest.raises(Interrupted, match="SIGUSR1"):
        asyncio.run(until_signalled(busy()))
    assert done == [True]
