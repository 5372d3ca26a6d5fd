"""The bucket sort behind a merge, with buckets so small that there are many."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.core.identity import Answer
from evalhpc.storage import merge, merge_bodies, merge_index, merge_order, spool
from evalhpc.storage.store import Store, merge_journals
from tests.storage_fixtures import RUN, write_journal

#: Keys that share first bytes, and keys that do not.
keys = st.binary(min_size=20, max_size=20) | st.binary(min_size=2, max_size=2).map(
    lambda end: bytes(18) + end
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(st.lists(st.lists(keys, max_size=40), max_size=3), st.integers(1, 9))
def test_small_pieces_give_the_same_store(
    tmp_path: Path, contents: list[list[bytes]], size: int
) -> None:
    """Through files, chunks, blocks and buckets of a few rows the store has the same bytes."""
    paths = [
        write_journal(
            tmp_path / f"{number}.journal",
            [(key, Answer(200, "", b"%d-%d" % (number, place))) for place, key in enumerate(some)],
        )
        for number, some in enumerate(contents)
    ]
    whole, pieces = tmp_path / "whole.h5", tmp_path / "pieces.h5"
    report = merge_journals(paths, whole, RUN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spool, "SPOOL_BYTES", 1)
        for module in (spool, merge_order, merge_bodies, merge):
            patched.setattr(module, "CHUNK", size)
        patched.setattr(merge_index, "FRAMES", size)
        patched.setattr(merge_index, "WINDOW", 60 * size)
        patched.setattr(merge_bodies, "MOVED_BYTES", size)
        patched.setattr(merge_bodies, "SYNC_BYTES", size)
        patched.setattr(merge_order, "BUCKET", size)
        patched.setattr(merge_order, "BLOCK", size)
        assert merge_journals(paths, pieces, RUN) == report
    assert pieces.read_bytes() == whole.read_bytes()
    with Store.open(pieces, RUN) as store:
        store.verify()
        assert list(store.keys()) == sorted({key for some in contents for key in some})
