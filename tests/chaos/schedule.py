"""What goes wrong, and when: a schedule made from a seed, the same one every time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

#: Everything that can go wrong here; `deeds.py` has a function of each name.
KINDS = (
    "kill_worker", "kill_gateway", "kill_server", "kill_harness", "kill_slurmd",
    "crash_node", "restart_controller", "stall_controller", "preempt", "requeue", "cancel_task",
    "fill_disk", "skew_clock", "corrupt_journal", "freeze_worker", "shorten_walltime",
    "slow_disk", "stall_disk", "over_quota", "read_only_disk", "stale_handles",
)  # fmt: skip
#: Where a kind finds something to hurt, if not anywhere in a run.
_PHASES = {
    "kill_gateway": ("planning", "passing", "collecting"),
    "kill_harness": ("planning", "passing", "collecting"),
    "kill_server": ("answering",),
    "freeze_worker": ("answering",),
    "corrupt_journal": ("answering", "passing"),
}
_ANYWHERE = ("planning", "answering", "answering", "answering", "passing", "collecting")


@dataclass(frozen=True)
class Event:
    """One thing that goes wrong.

    phase: of the run, in which it happens; at: how far into it (a fraction of the answers while
    answering, else seconds); pick: which of its possible targets, 0 to 1; size: how bad, 0 to 1.
    """

    kind: str
    phase: str
    at: float
    pick: float
    size: float


def make_schedule(seed: int, number: int) -> tuple[Event, ...]:
    """Three to five events; schedule `number` has kind `number` for certain, the others by lot."""
    random = Random(f"evalhpc chaos {seed} {number}")
    kinds = [KINDS[number % len(KINDS)]]
    kinds += [random.choice(KINDS) for _ in range(random.randint(2, 4))]
    return tuple(_event(kind, random) for kind in kinds)


def _event(kind: str, random: Random) -> Event:
    phase = random.choice(_PHASES.get(kind, _ANYWHERE))
    at = random.uniform(0, 0.9) if phase == "answering" else random.uniform(0, 2)
    return Event(kind, phase, round(at, 2), round(random.random(), 3), round(random.random(), 3))
