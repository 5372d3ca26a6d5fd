"""Journals: answers come back whole, or their damage is named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.core import frames
from evalhpc.core.frames import Damage
from evalhpc.core.identity import Answer
from evalhpc.errors import IntegrityError, StorageError
from evalhpc.storage import framed
from evalhpc.storage.framed import FrameWriter
from evalhpc.storage.journal import JournalWriter, read_journal
from tests.storage_fixtures import KEYS, RUN, SmallDisk, write_journal

answers = st.builds(
    Answer,
    status=st.integers(100, 599),
    content_type=st.text(st.characters(), max_size=20),
    body=st.binary(max_size=60),
    latency=st.floats(0, 1e6),
    attempts=st.integers(1, 9),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), answers), max_size=6))
def test_answers_come_back(tmp_path: Path, written: list[tuple[bytes, Answer]]) -> None:
    """Any status, content type (lone surrogates too), body, latency and attempts survive."""
    assert list(read_journal(write_journal(tmp_path / "a.journal", written), RUN)) == written


@pytest.mark.parametrize("body", [b"", b"\0", b'"\\ud800\xed\xa0\x80"', b"x" * (5 << 20)])
def test_any_body(tmp_path: Path, body: bytes) -> None:
    """Empty, NUL, surrogate and large bodies are bytes like others."""
    answer = Answer(200, "text/plain", body)
    assert list(read_journal(write_journal(tmp_path / "a", [(KEYS[0], answer)]), RUN)) == [
        (KEYS[0], answer)
    ]


def test_a_flush_is_what_a_crash_leaves(tmp_path: Path) -> None:
    """After flush the answer is in the file though the writer was never closed."""
    writer = JournalWriter.create(tmp_path / "a", RUN)
    writer.append(KEYS[0], Answer(200, "", b"x"))
    assert list(read_journal(tmp_path / "a", RUN)) == []
    writer.flush()
    assert list(read_journal(tmp_path / "a", RUN)) == [(KEYS[0], Answer(200, "", b"x"))]
    writer.close()


def test_a_journal_is_never_reopened(tmp_path: Path) -> None:
    """A second writer of the same name is refused."""
    path = write_journal(tmp_path / "a", [])
    with pytest.raises(StorageError, match="exists"):
        JournalWriter.create(path, RUN)


def test_another_run_is_refused(tmp_path: Path) -> None:
    """The journal of another run raises, naming both hashes, short."""
    path = write_journal(tmp_path / "a", [])
    with pytest.raises(IntegrityError, match="run ababababab, not to run cdcdcdcdcd"):
        list(read_journal(path, "cd" * 32))


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of a later format says so instead of looking damaged."""
    with monkeypatch.context() as later:
        later.setattr(frames, "VERSION", 9)
        JournalWriter.create(tmp_path / "a", RUN).close()
    with pytest.raises(IntegrityError, match="format 9"):
        list(read_journal(tmp_path / "a", RUN))


def test_a_shard_that_died_at_once_left_nothing(tmp_path: Path) -> None:
    """An empty file is a journal without answers."""
    (tmp_path / "a").touch()
    assert list(read_journal(tmp_path / "a", RUN)) == []


def test_a_damaged_file_header_hides_no_answer(tmp_path: Path) -> None:
    """The header's damage is reported and every answer behind it is read."""
    pair = (KEYS[0], Answer(200, "", b"x"))
    path = write_journal(tmp_path / "a", [pair])
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    assert list(read_journal(path, RUN)) == [Damage(0, 104, "damaged file header"), pair]


def test_a_frame_that_is_no_answer_is_damage(tmp_path: Path) -> None:
    """A frame whose meta is not an answer's is reported, not guessed at."""
    header = frames.file_header("journal", RUN)
    frame = frames.encode_frame(frames.header_seed(header), KEYS[0], b'{"status": 200}', b"")
    (tmp_path / "a").write_bytes(header + frame)
    assert list(read_journal(tmp_path / "a", RUN)) == [
        Damage(104, len(frame), "meta is not that of an answer")
    ]


@pytest.mark.parametrize("room", range(0, 250, 13))
def test_a_full_disk_leaves_whole_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """ENOSPC raises StorageError with the cause; the journal is valid; a later flush resumes."""
    written = [(key, Answer(200, "", b"x" * 20)) for key in KEYS[:3]]
    writer = JournalWriter.create(tmp_path / "a", RUN)
    for pair in written:
        writer.append(*pair)
    small_disk = SmallDisk(monkeypatch)
    small_disk.room = room
    with pytest.raises(StorageError, match="full"):
        writer.flush()
    kept = list(read_journal(tmp_path / "a", RUN))
    assert kept == written[: len(kept)]
    small_disk.room = 1 << 30
    writer.close()
    assert list(read_journal(tmp_path / "a", RUN)) == written


def test_what_a_failed_sync_lost_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that only fsync reports, and once, loses no answer that a later flush returned for;
    a writer that keeps nothing is closed by it."""
    written = [(key, Answer(200, "", b"x" * 20)) for key in KEYS[:3]]
    writer = JournalWriter.create(tmp_path / "a", RUN)
    writer.append(*written[0])
    writer.flush()
    durable = (tmp_path / "a").stat().st_size
    plan = FrameWriter(tmp_path / "b", "requests", RUN)

    def over_quota(fd: int) -> None:
        os.ftruncate(fd, durable)  # what the server never took
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    writer.append(*written[1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", over_quota)
        for flush in (writer.flush, plan.flush):
            with pytest.raises(StorageError, match="quota"):
                flush()
    plan.append(KEYS[0], b"{}", b"")
    with pytest.raises(StorageError, match="closed"):
        plan.flush()
    writer.append(*written[2])
    writer.flush()
    assert list(read_journal(tmp_path / "a", RUN)) == written
    writer.close()


def test_a_full_disk_at_birth_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot even be begun does not block its name for the next try."""
    small_disk = SmallDisk(monkeypatch)
    small_disk.room = 10
    with pytest.raises(StorageError, match="full"):
        JournalWriter.create(tmp_path / "a", RUN)
    small_disk.room = 1 << 30
    JournalWriter.create(tmp_path / "a", RUN).close()


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    """Closing twice is fine; writing afterwards is an error, not a loss."""
    writer = JournalWriter.create(tmp_path / "a", RUN)
    writer.close()
    writer.close()
    writer.append(KEYS[0], Answer(200, "", b""))
    with pytest.raises(StorageError, match="closed"):
        writer.flush()


@pytest.mark.parametrize("what", ["Input/output error", "became shorter"])
def test_a_journal_that_cannot_be_read_is_an_error_and_not_a_bus_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What is mapped is read before it is touched, from one window to the next: a file system that
    fails there is an error of ours, and so is a file that others cut short."""
    path, read = tmp_path / "a", os.preadv
    written = [(key, Answer(200, "", b"x" * 3000)) for key in KEYS[:3]]
    with JournalWriter.create(path, RUN) as journal:
        for pair in written:
            journal.append(*pair)
    monkeypatch.setattr(framed, "DROP_BYTES", 100)
    assert list(read_journal(path, RUN)) == written

    def fails(fd: int, buffers: list[bytearray], at: int) -> int:
        if at < 3000:
            return read(fd, [memoryview(buffers[0])[:100]], at)
        if what == "became shorter":
            return 0
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fails)
    answers = read_journal(path, RUN)
    assert next(answers) == written[0]
    with pytest.raises((StorageError, IntegrityError), match=what):
        next(answers)
