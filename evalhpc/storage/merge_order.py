"""Which answer to a key stays, and the order of the keys: a bucket sort in flat memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalhpc.core.identity import KEY_BYTES
from evalhpc.storage.spool import CHUNK, Records, Spool, as_bytes, prefixes

#: Rows that are sorted at a time. Keys are hashes, so their first bytes spread them evenly.
BUCKET = 1 << 17
PREFIXES = 1 << 16
#: Rows whose number within it has two bytes.
BLOCK = 1 << 16
_UNSORTED = np.dtype([("key", f"S{KEY_BYTES}"), ("digest", "S16"), ("row", "<i8"), ("seal", "<u4")])
#: A key and the row that stays for it, in the order of the keys.
BY_KEY = np.dtype([("key", f"S{KEY_BYTES}"), ("row", "<i8")])


@dataclass
class Choice:
    """Which rows of an index stay; in memory a byte a row, two more while it is `ranked`."""

    stays: npt.NDArray[np.bool_]
    by_key: Spool
    duplicates: int = 0
    disagreements: int = 0

    def ranked(self) -> Iterator[Records]:
        """`by_key` in chunks, its rows counted among those that stay."""
        within = np.empty(len(self.stays), np.uint16)
        before = [0]  # how many stay before each block of rows, and `within` it before each row
        for start in range(0, len(within), BLOCK):
            stays = self.stays[start : start + BLOCK]
            counted = np.cumsum(stays)
            within[start : start + BLOCK] = counted - stays
            before.append(before[-1] + int(counted[-1]))
        blocks = np.array(before)
        for chunk in self.by_key.chunks():
            records = chunk.copy()
            records["row"] = blocks[chunk["row"] // BLOCK] + within[chunk["row"]]
            yield records


def choose(rows: Spool, folder: Path) -> Choice:
    """Of each key the first row of the earliest seal stays; OSError: `folder` cannot be used."""
    choice = Choice(np.zeros(len(rows), bool), Spool(BY_KEY, folder))
    with Spool(_UNSORTED, folder) as unsorted:
        for start, stop in pairwise(_distribute(rows, unsorted)):
            _choose_among(unsorted.read(start, stop), choice)
    return choice


def _distribute(rows: Spool, unsorted: Spool) -> list[int]:
    """Put every row into its bucket; the places where the buckets start and the last ends."""
    counts = np.zeros(PREFIXES, np.int64)
    for chunk in rows.chunks():
        counts += np.bincount(prefixes(as_bytes(chunk["header"]["key"])), minlength=PREFIXES)
    bucket_of = (np.cumsum(counts) - counts) // BUCKET
    sizes = np.bincount(bucket_of, weights=counts).astype(np.int64)
    bounds = [0, *np.cumsum(sizes).tolist()]
    free = list(bounds)
    for number, chunk in enumerate(rows.chunks()):
        records = np.empty(len(chunk), _UNSORTED)
        records["key"] = chunk["header"]["key"]
        records["digest"] = chunk["header"]["digest"]
        records["seal"] = chunk["seal"]
        records["row"] = np.arange(number * CHUNK, number * CHUNK + len(chunk))
        buckets = bucket_of[prefixes(as_bytes(records["key"]))]
        order = np.argsort(buckets, kind="stable")
        ends = np.cumsum(np.bincount(buckets, minlength=len(sizes))).tolist()
        for bucket, (start, stop) in enumerate(pairwise([0, *ends])):
            if stop > start:
                unsorted.put(free[bucket], records[order[start:stop]])
                free[bucket] += stop - start
    return bounds


def _choose_among(records: Records, choice: Choice) -> None:
    """Choose within one bucket, whose records are in the order of the rows."""
    if np.any(records["seal"] != records["seal"][:1]):
        records = records[np.argsort(records["seal"], kind="stable")]
    records = records[np.argsort(records["key"], kind="stable")]
    keys, digests = records["key"], records["digest"]
    first = np.ones(len(records), bool)
    first[1:] = keys[1:] != keys[:-1]
    winner = np.maximum.accumulate(np.where(first, np.arange(len(records)), 0))
    kept = np.empty(np.count_nonzero(first), BY_KEY)
    kept["key"], kept["row"] = keys[first], records["row"][first]
    choice.stays[kept["row"]] = True
    choice.by_key.append(kept)
    choice.duplicates += len(records) - len(kept)
    choice.disagreements += int(np.count_nonzero((digests != digests[winner]) & ~first))
