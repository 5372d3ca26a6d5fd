"""Answers that the store had and has no longer, and the questions that followed from them.

    seals/lost-<id>.json   {"round": the last one planned then, "benchmarks": {name: answers}}

A damaged journal may take away an answer that a pass has used. It is asked again, and the model
may answer otherwise: what the harness asked after the first answer is then asked by nobody any
more, though it is planned and answered. That is no sign of a harness that asks by chance. Nor is
what a shard went on to ask in a slice that was taken from it while it slept.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from evalhpc.core.identity import KEY_BYTES, Request
from evalhpc.errors import IntegrityError
from evalhpc.models.base import Frozen
from evalhpc.storage.atomic import look_anew, write_text
from evalhpc.storage.follow import QueueReader
from evalhpc.storage.requests_file import read_requests
from evalhpc.storage.store import Store
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)

_PREFIX = "lost-"
#: Answers that are compared at a time.
_CHUNK = 1 << 18


class Lost(Frozen):
    """What one merge found gone."""

    round: int  # the last one that was planned then
    benchmarks: dict[str, int]  # name → answers


def find_lost(run: Run, fresh: Path) -> Lost | None:
    """What the store `fresh` lacks of the run's present store, or answers otherwise."""
    try:
        before = Store.open(run.paths.store, run.hash)
    except IntegrityError:
        return None  # the merge has said that it is unreadable
    with before, Store.open(fresh, run.hash) as after:
        lost = set(_gone(before, after))
    if not lost:
        return None
    rounds = planned_rounds(run)
    counts = Counter(r.benchmark for r in _planned(run, rounds) if r.key in lost)
    return Lost(round=rounds[-1], benchmarks=dict(counts)) if counts else None


def note_lost(run: Run, lost: Lost) -> None:
    """Record what a merge found gone."""
    path = run.paths.seals / f"{_PREFIX}{secrets.token_hex(6)}.json"
    write_text(path, lost.model_dump_json())
    count = sum(lost.benchmarks.values())
    log.warning("%d answers that were there before are damaged or gone", count)


def orphaned(run: Run, benchmark: str, unused: Collection[bytes]) -> set[bytes]:
    """Those of the unused answers whose question may have followed from one that does not count.

    They are the benchmark's own, and were planned before it was known that an answer is lost, or
    asked in a slice that was run more than once.
    """
    if not unused:
        return set()
    names = sorted(name for name in look_anew(run.paths.seals) if name.startswith(_PREFIX))
    records = (read_record(run.paths.seals / name, Lost) for name in names)
    until = max((lost.round for lost in records if benchmark in lost.benchmarks), default=0)
    rounds = [round_ for round_ in planned_rounds(run) if round_ <= until]
    asked = chain(_planned(run, rounds), _asked_in_repeated_slices(run, benchmark))
    return {request.key for request in asked}.intersection(unused)


def _gone(before: Store, after: Store) -> Iterator[bytes]:
    """The keys whose answer only `before` has; in flat memory, as there may be many millions."""
    keys, rows, digests = before.index()
    others, other_rows, other_digests = after.index()
    for start in range(0, len(keys), _CHUNK):
        some = keys[start : start + _CHUNK]
        place = np.searchsorted(others, some)
        same = place < len(others)
        same[same] = others[place[same]] == some[same]
        found = other_digests[other_rows[place[same]]]
        same[same] = np.all(digests[rows[start : start + _CHUNK][same]] == found, axis=1)
        # NumPy takes zero bytes at the end of a text for nothing.
        yield from (key.ljust(KEY_BYTES, b"\0") for key in some[~same].tolist())


def _asked_in_repeated_slices(run: Run, benchmark: str) -> Iterator[Request]:
    for path in (run.paths.slices / benchmark).glob("*-*/further.frames"):
        number = int(path.parent.name.partition("-")[0])
        if run.paths.slice_attempt(benchmark, number, 1).exists():
            yield from QueueReader(path, run.hash).new()


def _planned(run: Run, rounds: Iterable[int]) -> Iterator[Request]:
    for round_ in rounds:
        yield from read_requests(run.paths.round_plan(round_), run.hash)
