"""Following files that grow: each whole frame once, a torn one when it is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalhpc.core.frames import encode_frame, header_seed
from evalhpc.core.identity import Answer, Request
from evalhpc.errors import IntegrityError, StorageError
from evalhpc.storage.follow import JournalFollower, QueueReader, QueueWriter
from evalhpc.storage.journal import JournalWriter

RUN = "ab" * 32


def request(number: int) -> Request:
    """The n-th of some requests."""
    return Request(number.to_bytes(20, "big"), "b", "judge", "POST", "/completions", b"{}" * number)


def test_each_request_is_seen_once_and_in_order(tmp_path: Path) -> None:
    """Whatever the pace of writer and reader; endpoint and body come through."""
    path = tmp_path / "q.frames"
    writer = QueueWriter(path, RUN)
    reader = QueueReader(path, RUN)
    seen = []
    for number in range(5):
        writer.append(request(number))
        if number % 2:
            writer.flush()
        seen += reader.new()
    assert seen == [request(number) for number in range(4)]
    writer.close()
    assert reader.new() == [request(4)]
    assert reader.new() == []


@pytest.mark.parametrize("missing", [1, 10, 70])
def test_a_torn_answer_is_read_once_it_is_whole(missing: int, tmp_path: Path) -> None:
    """What another node sees of a write in progress is no answer and no damage."""
    path, growing = tmp_path / "whole.journal", tmp_path / "growing.journal"
    with JournalWriter.create(path, RUN) as journal:
        journal.append(bytes(20), Answer(200, "application/json", b"1" * 50, 0.5, 2))
        journal.append(bytes(19) + b"\1", Answer(400, "application/json", b"2" * 50))
    data = path.read_bytes()
    growing.write_bytes(data[:-missing])
    follower = JournalFollower(growing, RUN)
    assert [key for key, _ in follower.new()] == [bytes(20)]
    assert follower.new() == []
    growing.write_bytes(data)
    assert follower.new() == [(bytes(19) + b"\1", Answer(400, "application/json", b"2" * 50))]


def test_a_file_of_another_run_or_none_is_refused(tmp_path: Path) -> None:
    """Following must never take up a foreign answer."""
    path = tmp_path / "j.journal"
    with JournalWriter.create(path, "cd" * 32) as journal:
        journal.append(bytes(20), Answer(200, "application/json", b"1"))
    with pytest.raises(IntegrityError):
        JournalFollower(path, RUN).new()
    with pytest.raises(StorageError):
        QueueReader(tmp_path / "absent", RUN).new()


@pytest.mark.parametrize("meta", [b"", b"null", b'{"content_type":"","status":200}', b"[" * 2000])
def test_a_whole_frame_that_says_nothing_of_an_answer_is_passed_over(
    tmp_path: Path, meta: bytes
) -> None:
    """Its checksum is right, so only what it says can tell; what follows it is read."""
    path, key = tmp_path / "j.journal", bytes(19) + b"\1"
    with JournalWriter.create(path, RUN) as journal:
        journal.append(bytes(20), Answer(200, "application/json", b"1"))
    whole = path.read_bytes()
    with JournalWriter.create(tmp_path / "other", RUN) as journal:
        journal.append(key, Answer(200, "application/json", b"2"))
    header, tail = whole[:104], (tmp_path / "other").read_bytes()[104:]
    path.write_bytes(whole + encode_frame(header_seed(header), key, meta, b"forged") + tail)
    follower = JournalFollower(path, RUN)
    assert [(k, answer.body) for k, answer in follower.new()] == [(bytes(20), b"1"), (key, b"2")]
    assert follower.new() == []


def test_damage_hides_nothing_behind_it_and_may_yet_be_whole(tmp_path: Path) -> None:
    """A file server may show the end of a write before its middle."""
    path = tmp_path / "j.journal"
    keys = [bytes([number]) * 20 for number in range(4)]
    with JournalWriter.create(path, RUN) as journal:
        for key in keys:
            journal.append(key, Answer(200, "application/json", b"answer" + key))
    whole = path.read_bytes()
    at = whole.index(b"answer" + keys[1])
    path.write_bytes(whole[:at] + bytes(6) + whole[at + 6 : -3])
    follower = JournalFollower(path, RUN)
    assert [key for key, _ in follower.new()] == [keys[0], keys[2]]
    assert follower.new() == []
    last = whole.index(b"answer" + keys[3])
    path.write_bytes(whole[:at] + bytes(6) + whole[at + 6 : last] + bytes(len(whole) - last))
    assert follower.new() == []
    path.write_bytes(whole[:at] + bytes(6) + whole[at + 6 :])
    assert [key for key, _ in follower.new()] == [keys[3]]
    path.write_bytes(whole)
    assert [key for key, _ in follower.new()] == [keys[1]]
    assert follower.new() == []


@pytest.mark.parametrize("look", [1, 2, 3])
def test_a_journal_that_its_shard_cuts_meanwhile_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """After a failed sync, say: whenever it happens, what is written again comes once, in order."""
    path, fstat = tmp_path / "j.journal", os.fstat
    pairs = [(bytes([n]) * 20, Answer(200, "", bytes(5000))) for n in range(3)]
    with JournalWriter.create(path, RUN) as journal:
        for pair in pairs:
            journal.append(*pair)
    whole = path.read_bytes()
    calls = iter(range(1, 100))

    def cutting(fd: int) -> os.stat_result:
        known = fstat(fd)
        if next(calls) == look:
            os.truncate(path, 6000)
        return known

    follower = JournalFollower(path, RUN)
    monkeypatch.setattr(os, "fstat", cutting)
    seen = follower.new() + follower.new()
    path.write_bytes(whole)
    seen += follower.new()
    assert seen == pairs


def test_damage_that_is_cut_off_may_yet_be_whole(tmp_path: Path) -> None:
    """The writer writes the same bytes to the same place as soon as its disk lets it."""
    path = tmp_path / "j.journal"
    keys = [bytes([number]) * 20 for number in range(3)]
    with JournalWriter.create(path, RUN) as journal:
        for key in keys:
            journal.append(key, Answer(200, "application/json", b"answer" + key))
    whole = path.read_bytes()
    at = whole.index(b"answer" + keys[1])
    path.write_bytes(whole[:at] + bytes(6) + whole[at + 6 :])
    follower = JournalFollower(path, RUN)
    assert [key for key, _ in follower.new()] == [keys[0], keys[2]]
    for end in (at, at - 150, 0):
        os.truncate(path, end)
        assert follower.new() == []
    path.write_bytes(whole)
    assert [key for key, _ in follower.new()] == [keys[1]]
    assert follower.new() == []


def test_a_look_reads_what_is_new_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are ten looks a second, at the files of every shard, by every shard."""
    path, read, asked = tmp_path / "q.frames", os.pread, [0]
    writer = QueueWriter(path, RUN)
    for number in range(100):
        writer.append(request(number))
    writer.flush()
    reader = QueueReader(path, RUN)
    reader.new()
    size = path.stat().st_size
    writer.append(request(100))
    writer.close()

    def pread(fd: int, length: int, at: int) -> bytes:
        asked[0] += length
        return read(fd, length, at)

    monkeypatch.setattr(os, "pread", pread)
    assert reader.new() == [request(100)]
    assert asked[0] == path.stat().st_size - size
