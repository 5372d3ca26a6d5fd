"""When a request is given up for good: it failed while the server was well, and failed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from itertools import groupby
from typing import NamedTuple

#: Rounds in which a request must fail while others are answered; a crash or two is no proof.
PATIENCE = 3


class Attempt(NamedTuple):
    """A request that a shard gave up in one round; `fault` as worker.asking has it."""

    round: int
    key: bytes
    benchmark: str
    fault: str
    reason: str


class Failed(NamedTuple):
    """A request that is given up for good: its last reason, and the rounds that say so."""

    key: bytes
    benchmark: str
    reason: str
    rounds: tuple[int, ...]


def given_up(
    attempts: Iterable[Attempt], telling: Callable[[int, Set[bytes]], bool]
) -> dict[bytes, Failed]:
    """Key → Failed of every request that is not worth another round.

    A reply that will not change counts at once. A failure that might pass counts in PATIENCE
    rounds that are telling: `telling(round, suspects)` says whether the server was well in it,
    `suspects` being what failed before. A server that was not there blames no request.
    """
    rounds: dict[bytes, list[int]] = {}
    suspects: set[bytes] = set()
    found: dict[bytes, Failed] = {}
    blamed = (attempt for attempt in attempts if attempt.fault != "unreachable")
    for round_, group in groupby(sorted(blamed), key=lambda attempt: attempt.round):
        of_round = {attempt.key: attempt for attempt in group}
        counts = telling(round_, frozenset(suspects))
        for key, attempt in of_round.items():
            if counts or attempt.fault == "failed":
                rounds.setdefault(key, []).append(round_)
            seen = tuple(rounds.get(key, ()))
            if attempt.fault == "failed" or len(seen) >= PATIENCE:
                found[key] = Failed(key, attempt.benchmark, attempt.reason, seen)
        suspects.update(of_round)
    return found


def above_limit(failed: Mapping[str, int], planned: Mapping[str, int], limit: float) -> list[str]:
    """The benchmarks of whose `planned` requests a larger share than `limit` has failed."""
    return [name for name, count in failed.items() if count > limit * planned[name]]
