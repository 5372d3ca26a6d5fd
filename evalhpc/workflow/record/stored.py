"""What the store holds for each benchmark: its planned keys, and one hash over their answers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from heapq import merge
from typing import TYPE_CHECKING

from evalhpc.core.frames import DIGEST_BYTES
from evalhpc.core.merkle import merkle_root
from evalhpc.storage.requests_file import read_requests
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run

if TYPE_CHECKING:  # HDF5 is dear to import
    from evalhpc.storage.store import Store

#: Stands for the answer of a request that was given up for good: the harness gets an error.
_NO_ANSWER = bytes(DIGEST_BYTES)


@dataclass(frozen=True)
class Stored:
    """One benchmark's share of the store.

    An outcome stands for `root`, the Merkle root over its planned keys, what it was answered with
    and what was given up: a pass over the same gives the same.
    """

    keys: list[bytes]  # planned and answered, sorted
    root: str


def asked_root(run: Run, store: Store, number: int, benchmark: str) -> str | None:
    """`Stored.root` over what a live pass asked, before it is planned; None if it left no list."""
    path = run.paths.misses(number, benchmark)
    if not path.is_file():
        return None
    keys = sorted({request.key for request in read_requests(path, run.hash)})
    return merkle_root((key, store.digest(key)) for key in keys if store.has(key))


def stored_answers(run: Run, store: Store, failed: Collection[bytes]) -> dict[str, Stored]:
    """Benchmark → its share; every plan is read once, memory is some bytes a request."""
    benchmark_of = {
        request.key: request.benchmark
        for round_ in planned_rounds(run)
        for request in read_requests(run.paths.round_plan(round_), run.hash)
    }
    pairs: dict[str, list[tuple[bytes, bytes]]] = {b.name: [] for b in run.spec.benchmarks}
    for key, digest in merge(store.pairs(), ((key, _NO_ANSWER) for key in sorted(failed))):
        if key in benchmark_of:
            pairs[benchmark_of[key]].append((key, digest))
    return {
        name: Stored([key for key, digest in found if digest != _NO_ANSWER], merkle_root(found))
        for name, found in pairs.items()
    }
