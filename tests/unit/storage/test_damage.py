"""Damaged journals and full disks: nothing passes for an answer that is not one."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evalhpc.core import frames
from evalhpc.core.frames import Damage
from evalhpc.core.identity import Answer
from evalhpc.errors import StorageError
from evalhpc.storage import spool
from evalhpc.storage.journal import read_journal
from evalhpc.storage.store import Store, merge_journals
from tests.storage_fixtures import KEYS, RUN, write_journal

PAIRS = [
    (KEYS[0], Answer(200, "text/plain", b"first", 0.5, 1)),
    (KEYS[1], Answer(400, "", b"", 0.25, 2)),
    (KEYS[2], Answer(200, "application/json", b'{"last": 1}', 0.125, 3)),
]


def found(path: Path) -> tuple[list[tuple[bytes, Answer]], list[Damage]]:
    items = list(read_journal(path, RUN))
    return (
        [item for item in items if not isinstance(item, Damage)],
        [item for item in items if isinstance(item, Damage)],
    )


def merged(path: Path) -> tuple[dict[bytes, Answer | None], int]:
    """(answers, damaged spans) of a merge of one journal."""
    out = path.with_name("store.h5")
    report = merge_journals([path], out, RUN)
    with Store.open(out, RUN) as store:
        store.verify()
        return {key: store.get(key) for key, _ in store.pairs()}, len(report.damaged)


def test_every_bit_counts(tmp_path: Path) -> None:
    """Whichever bit of a journal flips: one span is damaged, and the other answers are exact."""
    path = write_journal(tmp_path / "a", PAIRS)
    whole = path.read_bytes()
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        answers, damage = found(path)
        lost = len(PAIRS) - len(answers)
        assert len(damage) == 1
        assert lost == (damage[0].offset >= frames.FILE_HEADER_BYTES)
        assert answers == [pair for pair in PAIRS if pair in answers]


@pytest.mark.parametrize("start", range(0, 600, 37))
def test_a_merge_sees_a_flipped_bit_too(tmp_path: Path, start: int) -> None:
    """The merge, which looks at headers first, leaves out and reports what a reader would."""
    path = write_journal(tmp_path / "a", PAIRS)
    whole = path.read_bytes()
    for at in range(start % len(whole), len(whole), 211):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        answers, damage = found(path)
        assert merged(path) == (dict(answers), len(damage)) == (dict(answers), 1)


def test_counts_of_a_merge_are_plain_numbers(tmp_path: Path) -> None:
    """They go into the certificate as JSON, which knows no numpy."""
    other = [(key, Answer(200, "text/plain", b"another")) for key, _ in PAIRS]
    journals = [write_journal(tmp_path / "a", PAIRS), write_journal(tmp_path / "b", other)]
    report = merge_journals(journals, tmp_path / "store.h5", RUN)
    counts = (report.answers, report.duplicates, report.disagreements, report.bytes)
    assert counts[:3] == (3, 3, 3)
    assert [type(count) for count in counts] == [int] * 4


def test_a_cut_anywhere(tmp_path: Path) -> None:
    """A journal cut at any byte gives the whole answers before the cut, and reports the rest."""
    path = write_journal(tmp_path / "a", PAIRS)
    whole = path.read_bytes()
    ends = [frames.FILE_HEADER_BYTES]
    for size in range(1, len(PAIRS) + 1):
        ends.append(len(write_journal(path, PAIRS[:size]).read_bytes()))
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        kept = max(sum(end <= cut for end in ends) - 1, 0)
        clean = cut in (0, *ends)
        assert merged(path) == (dict(PAIRS[:kept]), 0 if clean else 1)


@pytest.mark.parametrize("meta", [0, 2**31, 2**32 - 1])
@pytest.mark.parametrize("body", [10**6, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_lengths_that_no_file_has(tmp_path: Path, meta: int, body: int) -> None:
    """A frame that claims to be huge, with a right crc32, takes no memory and hides no answer."""
    header = frames.file_header("journal", RUN)
    seed = frames.header_seed(header)
    huge = bytearray(frames.encode_frame(seed, KEYS[5], b"", b"x"))
    struct.pack_into("<IQ", huge, frames.FRAME_HEADER_BYTES - 12, meta, body)
    struct.pack_into("<I", huge, 4, zlib.crc32(huge[8 : frames.FRAME_HEADER_BYTES], seed))
    path = write_journal(tmp_path / "a", PAIRS)
    path.write_bytes(header + huge + path.read_bytes()[len(header) :])
    assert found(path) == (PAIRS, [Damage(len(header), len(huge), "cut short")])
    assert merged(path) == (dict(PAIRS), 1)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside, the kernel lets no file grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1000, 3000, 7000, 20_000, 100_000])
@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_no_room_for_the_new_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, in_memory: int
) -> None:
    """Wherever the writing ends, in index, columns or bodies: the old store stays, alone."""
    monkeypatch.setattr(spool, "SPOOL_BYTES", in_memory)
    out = tmp_path / "store.h5"
    journals = tmp_path / "journals"
    journals.mkdir()
    merge_journals([write_journal(journals / "0", PAIRS[:1])], out, RUN)
    before = out.read_bytes()
    more = [(key, Answer(200, "", bytes(8000))) for key in KEYS]
    write_journal(journals / "1", more)
    with largest_file(size), pytest.raises(StorageError, match="too large") as caught:
        merge_journals(journals.iterdir(), out, RUN)
    assert caught.value.hint == "ulimit -f"
    assert [path.name for path in tmp_path.iterdir() if path != journals] == ["store.h5"]
    assert out.read_bytes() == before
    assert merge_journals(journals.iterdir(), out, RUN).answers == len(KEYS)
