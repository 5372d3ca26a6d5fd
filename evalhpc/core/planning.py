"""Ordering a round's requests by cost and cutting them into work units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from evalhpc.core.costs import Kind
from evalhpc.core.identity import HASH_BYTES, make_key
from evalhpc.models.base import Frozen

#: A unit is this part of a shard's even share of what is left: the last ones are single requests.
SHARE = 4
#: What a unit holds at most: what a dead shard's heirs ask again, and what a worker queues.
LARGEST_UNIT = 128
#: A unit may grow so much beyond its share to keep requests with one prefix together.
STRETCH = 2.0
#: The first tenths of a body that its neighbour must share to count as having one prefix with it.
SHARED_TENTHS = 9


class Entry(NamedTuple):
    """A request of a plan: where it is, and all that decides on its unit."""

    kind: Kind  # requests of one kind may share a unit
    cost: float  # above 0, on one scale within a plan
    family: int  # neighbours that share a prefix have the same
    place: int  # in the harness's order, from 0


class Unit(Frozen):
    """A contiguous range of a plan file: one worker's claim. Offsets in bytes, `end` exclusive.

    `id` is its place in the order in which units are leased, and in the file.
    """

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


def share_prefix(body: bytes, following: bytes) -> bool:
    """Whether canonical bodies of two requests in a row begin alike for nine tenths."""
    length = min(len(body), len(following)) * SHARED_TENTHS // 10
    return length > 0 and body[:length] == following[:length]


def lease_order(entries: Iterable[Entry]) -> list[Entry]:
    """The entries in the order in which units should be leased: the costliest first.

    Endpoints come as they first came up. Within one, all of a kind are neighbours, since a worker
    pauses between kinds; within a kind, families are whole and in the harness's order.
    """
    listed = sorted(entries, key=lambda entry: entry.place)
    endpoints: dict[str, int] = {}
    kinds: dict[Kind, _Mean] = {}
    families: dict[tuple[Kind, int], _Mean] = {}
    for entry in listed:
        endpoints.setdefault(entry.kind[1], len(endpoints))
        kinds.setdefault(entry.kind, _Mean()).add(entry)
        families.setdefault((entry.kind, entry.family), _Mean()).add(entry)

    def rank(entry: Entry) -> tuple[float, ...]:
        kind, family = kinds[entry.kind], families[entry.kind, entry.family]
        return (endpoints[entry.kind[1]], *kind.rank, *family.rank, entry.place)

    return sorted(listed, key=rank)


class _Mean:
    """A group of requests: the mean of their costs, and where it begins."""

    def __init__(self) -> None:
        self._total, self._count, self._first = 0.0, 0, -1

    def add(self, entry: Entry) -> None:
        if not self._count:
            self._first = entry.place
        self._total += entry.cost
        self._count += 1

    @property
    def rank(self) -> tuple[float, int]:
        return -self._total / self._count, self._first


def unit_lengths(entries: Sequence[Entry], shards: int, wanted: int | None = None) -> list[int]:
    """How many requests each unit gets, of entries in lease order.

    A unit holds requests of one kind and a share of its endpoint's remaining cost, so that units
    shrink towards the end; at least one request, at most LARGEST_UNIT, and `wanted` if given.
    """
    largest = LARGEST_UNIT if wanted is None else wanted
    left: dict[str, float] = {}
    for entry in entries:
        left[entry.kind[1]] = left.get(entry.kind[1], 0.0) + entry.cost
    lengths: list[int] = []
    count, cost, target = 0, 0.0, 0.0
    for index, entry in enumerate(entries):
        before = entries[index - 1]
        if count and (
            entry.kind != before.kind
            or count >= largest
            or cost + entry.cost > target * (STRETCH if entry.family == before.family else 1)
        ):
            left[before.kind[1]] -= cost
            lengths.append(count)
            count, cost = 0, 0.0
        if not count:
            target = left[entry.kind[1]] / (shards * SHARE)
        count, cost = count + 1, cost + entry.cost
    return [*lengths, count] if count else lengths


def cut_units(
    entries: Sequence[Entry], lengths: Iterable[int], starts: Sequence[int]
) -> tuple[Unit, ...]:
    """Units of so many entries each, of a plan file in lease order.

    `starts` are the entries' offsets in bytes, and one more for the end of the last.
    """
    units: list[Unit] = []
    begin = 0
    for count in lengths:
        benchmark, endpoint, _, _ = entries[begin].kind
        unit = Unit(
            id=len(units),
            start=starts[begin],
            end=starts[begin + count],
            count=count,
            benchmark=benchmark,
            endpoint=endpoint,
        )
        units.append(unit)
        begin += count
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
