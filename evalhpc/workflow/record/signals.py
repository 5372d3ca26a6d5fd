"""Ends a job's coroutine in good order when Slurm, or a person, asks for it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

#: SIGUSR1 is what --signal sends before the walltime; the others are cancel and preemption.
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: The exit code of a job that was asked to end, and did so in good order; one that the signal
#: killed has 143. sysexits.h: a temporary failure, to be tried again.
INTERRUPTED = 75

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """The job was asked to end and has put everything in order."""


class Received(BaseException):
    """A signal within the block; logging, and others, would swallow an Exception."""


@contextmanager
def interruptible() -> Iterator[None]:
    """A signal ends the block at once with Interrupted, so that what was started is ended.

    Further ones do not disturb that: scancel tells each process, and its parent passes it on.
    """

    def receive(number: int, _frame: FrameType | None) -> None:
        for ending in ENDINGS:
            signal.signal(ending, lambda *_: None)
        raise Received(signal.Signals(number).name)

    previous = {number: signal.signal(number, receive) for number in ENDINGS}
    try:
        yield
    except Received as received:
        raise Interrupted(str(received)) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


async def until_signalled(
    main: Coroutine[Any, Any, T], *, on_signal: Callable[[], None] | None = None
) -> T:
    """Run `main`; a signal calls `on_signal`, or cancels it and raises Interrupted.

    Only the first one counts.
    """
    loop = asyncio.get_running_loop()
    task: asyncio.Task[T] = loop.create_task(main)
    seen: list[str] = []

    def receive(number: int) -> None:
        seen.append(signal.Signals(number).name)
        if len(seen) > 1:
            return
        log.warning("received %s: ending in good order", seen[-1])
        if on_signal is not None:
            on_signal()
        else:
            task.cancel()

    previous = {number: signal.getsignal(number) for number in ENDINGS}
    for number in ENDINGS:
        loop.add_signal_handler(number, receive, number)
    try:
        return await task
    except asyncio.CancelledError:
        if seen:
            raise Interrupted(seen[0]) from None
        raise
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)  # leaves the default handler behind
            signal.signal(number, handler)
