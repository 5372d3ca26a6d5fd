"""Walltimes: as sbatch takes them, and fitted to what is left to do.

With less time to ask for, Slurm can start an array in a smaller hole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Measured times may grow by this factor before a fitted walltime is too short.
SAFETY = 2.0
#: Slurm may send the signal of --signal so many seconds early.
EARLY = 60.0


@dataclass(frozen=True)
class Pace:
    """What shards took, in seconds: each to load its model, all together for their work."""

    load: float
    work: float


def fitted(
    pace: Pace,
    tasks: int,
    *,
    request: float,
    signal: float,
    limit: int,
    least: int = 0,
) -> str | None:
    """The --time of an array whose `tasks` share `pace.work`; None where `limit` is no longer.

    All in seconds: `request` is what one request may take at most, which a shard has left when it
    is told to end; `signal` how long before the end it is told; `least` is the site's shortest.
    """
    needed = SAFETY * (pace.load + pace.work / tasks) + request + signal + EARLY
    minutes = math.ceil(max(needed, least) / 60)
    return clock(minutes * 60) if minutes * 60 < limit else None


def clock(seconds: int) -> str:
    """`H:MM:SS`, one of the forms that sbatch --time takes."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def walltime_seconds(text: str) -> int | None:
    """Seconds of an sbatch --time: `30` and `30:00` are minutes; 0 is no limit, None here."""
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:  # D-H, D-H:M, D-H:M:S
        parts += [0] * (3 - len(parts))
    elif len(parts) < 3:  # M, M:S
        parts = [0, *parts, *[0] * (2 - len(parts))]
    seconds = int(days or 0) * 24 * 3600 + parts[0] * 3600 + parts[1] * 60 + parts[2]
    return seconds or None
