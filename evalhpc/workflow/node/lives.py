"""A job's work in a process of its own: one that is killed is begun again, at once, in the job."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from evalhpc.workflow.record.signals import ENDINGS

log = logging.getLogger(__name__)

#: Times that a job begins its work.
LIVES = 3
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Ended:
    """How the last life ended: `code` as a shell says it, 128+N for one that signal N killed.

    asked: by a signal to the job (Slurm's before a walltime, scancel, preemption).
    """

    code: int
    asked: bool

    @property
    def killed(self) -> str:
        """The signal that nobody had asked the job to end by; "" where there was none."""
        return "" if self.asked or self.code <= 128 else _signal_name(self.code - 128)


def live(work: Callable[[int], int]) -> Ended:
    """Run `work`, which returns an exit code, in a child; again if a signal kills that.

    `work` is told which of its lives it is, from 1. What asks this process to end is passed on to
    the child, and then ends both.
    """
    asked: list[int] = []
    for number in range(1, LIVES + 1):
        ended = Ended(_life(number, work, asked), bool(asked))
        if not ended.killed:
            break
        left = "it is begun again" if number < LIVES else "it is given up"
        log.error("killed by %s (out of memory?), %d of %d: %s", ended.killed, number, LIVES, left)
    return ended


def _life(number: int, work: Callable[[int], int], asked: list[int]) -> int:
    """The exit code of one child."""
    child: list[int] = []

    def pass_on(asking: int, _frame: FrameType | None) -> None:
        asked.append(asking)
        for pid in child:
            with suppress(ProcessLookupError):
                os.kill(pid, asking)

    # No signal may come while nobody knows the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    previous = {number: signal.signal(number, pass_on) for number in ENDINGS}
    parent, pid = os.getpid(), os.fork()
    if not pid:
        _tie_to(parent)
        _handle(previous)
        raise SystemExit(work(number))
    child.append(pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
    _, status = os.waitpid(pid, 0)
    child.clear()
    _handle(previous)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    """Let signals come, to these."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)


def _tie_to(parent: int) -> None:
    """Have the kernel end this process when its parent is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
