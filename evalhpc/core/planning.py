"""Cutting a round's requests into work units, in the harness's order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from evalhpc.core.identity import HASH_BYTES, make_key
from evalhpc.models.base import Frozen

#: Enough units that the last ones even out, few enough that leasing costs nothing.
UNITS_PER_SHARD = 8
LARGEST_UNIT = 32


class Entry(NamedTuple):
    """A request's place in a plan file, in bytes, and what it may share a unit with."""

    benchmark: str
    endpoint: str
    start: int
    end: int


class Unit(Frozen):
    """A contiguous range of a plan file: one worker's claim. Offsets in bytes, `end` exclusive."""

    id: int
    start: int
    end: int
    count: int
    benchmark: str
    endpoint: str = "model"  # who answers it


class RoundPlan(Frozen):
    """What `plan/<round>/units.json` holds."""

    round: int
    run_hash: str
    requests: int
    plan_hash: str  # SHA-256 of the plan file
    units: tuple[Unit, ...]


class Occurrences:
    """Counts how often each request came up in one pass: identical prompts are further samples.

    A harness that asks again because it dislikes a stub looks the same as one that draws its
    samples one after another: in both, a request comes once the reply to the one before has
    gone. So repetitions are never left out by their number or their timing; those of stubs are
    planned, answered, and found unused in the end.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def next_key(self, hash_: bytes) -> bytes:
        """The key of this request, as its n-th occurrence."""
        occurrence = self._seen.get(hash_, 0)
        self._seen[hash_] = occurrence + 1
        return make_key(hash_, occurrence)

    def count(self, hash_: bytes) -> int:
        """How often this request has come up so far."""
        return self._seen.get(hash_, 0)


def unit_size(requests: int, shards: int, wanted: int | None) -> int:
    """Requests per unit: `wanted`, or a share that gives every shard several."""
    if wanted is not None:
        return wanted
    even = -(-requests // (shards * UNITS_PER_SHARD))
    return max(1, min(LARGEST_UNIT, even))


def cut_units(entries: Sequence[Entry], size: int) -> tuple[Unit, ...]:
    """Units of at most `size` requests from entries in file order.

    A unit never mixes benchmarks or endpoints, so that a shard meets one sampling configuration
    at a time, and each of its workers only what its server can answer.
    """
    units: list[Unit] = []
    begin = 0
    for index in range(1, len(entries) + 1):
        first = entries[begin]
        if index < len(entries) and index - begin < size and entries[index][:2] == first[:2]:
            continue
        unit = Unit(
            id=len(units),
            start=first.start,
            end=entries[index - 1].end,
            count=index - begin,
            benchmark=first.benchmark,
            endpoint=first.endpoint,
        )
        units.append(unit)
        begin = index
    return tuple(units)


def unused_answers(stored: Iterable[bytes], used: frozenset[bytes] | set[bytes]) -> list[bytes]:
    """Stored keys that a final pass did not ask for and that are not a retry of a used one.

    A harness that repeats a request because it dislikes the stub makes a further occurrence of
    it; once the first one has a real answer the repetition does not come up again.
    """
    hashes = {key[:HASH_BYTES] for key in used}
    return [key for key in stored if key not in used and key[:HASH_BYTES] not in hashes]


def unused_repeats(stored: Iterable[bytes], used: frozenset[bytes] | set[bytes]) -> list[bytes]:
    """The rest of what a final pass did not ask for: further occurrences of used requests."""
    hashes = {key[:HASH_BYTES] for key in used}
    return [key for key in stored if key not in used and key[:HASH_BYTES] in hashes]
