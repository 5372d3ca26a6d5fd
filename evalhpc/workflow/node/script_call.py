"""A job of the local site as submitit runs it: in a process of its own, which unpickles this module
and imports nothing else of ours.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from evalhpc import process


@dataclass(frozen=True)
class ScriptCall:
    """One job of the local site: a rendered script, its arguments, and what tells tasks apart."""

    kind: str
    round: int
    script: str
    log: str
    shard: int = 0


def call_script(call: ScriptCall) -> int:
    """Run one script to its end (inside a submitit task); SIGTERM is passed on to it."""
    env = {**process.scrubbed(os.environ), "EVALHPC_SHARD": str(call.shard)}
    words = ["bash", call.script, str(call.round)]
    child = process.start(words, log=Path(call.log), env=env, tied=True)

    def forward(_number: int, _frame: FrameType | None) -> None:
        child.send_signal(signal.SIGTERM)

    # submitit ignores SIGTERM in its tasks (Slurm's preemption); for us it means cancel.
    signal.signal(signal.SIGTERM, forward)
    try:
        return child.wait()
    finally:
        process.stop(child, grace=0.0)
