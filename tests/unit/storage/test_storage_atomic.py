"""Whole or absent files, JSON lines, and what errno means."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from evalhpc.errors import IntegrityError, StorageError
from evalhpc.storage import atomic
from evalhpc.storage.follow import JournalFollower
from evalhpc.storage.journal import JournalWriter, read_journal
from evalhpc.storage.requests_file import read_requests
from tests.storage_fixtures import RUN


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """The new text is there, and no temporary name is left."""
    path = tmp_path / "run.yaml"
    atomic.write_text(path, "old")
    atomic.write_text(path, "new ✓")
    assert path.read_text(encoding="utf-8") == "new ✓"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk raises StorageError; the file is as before and nothing else is left."""
    path = tmp_path / "run.yaml"
    atomic.write_text(path, "old")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="full"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", ["EACCES", "EROFS", "ENOSPC", "EDQUOT", "ENOENT", "EEXIST"])
def test_an_errno_has_a_cause_and_a_next_command(code: str, tmp_path: Path) -> None:
    """The usual failures of a cluster's file system say why and what to run."""
    error = atomic.storage_error(tmp_path / "x", OSError(getattr(errno, code), "text"))
    assert error.cause
    assert str(tmp_path) in error.hint
    assert not error.transient


def test_a_stale_handle_is_transient(tmp_path: Path) -> None:
    """What a file server's restart causes may be tried again."""
    assert atomic.storage_error(tmp_path, OSError(errno.ESTALE, "stale")).transient


def test_json_lines_come_back_in_order(tmp_path: Path) -> None:
    """Records are appended; an absent file has none."""
    path = tmp_path / "jobs.jsonl"
    assert atomic.read_jsonl(path) == []
    for number in range(3):
        atomic.append_jsonl(path, {"job": number})
    assert atomic.read_jsonl(path) == [{"job": 0}, {"job": 1}, {"job": 2}]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """What a killed writer left at the end is no record and no error."""
    path = tmp_path / "jobs.jsonl"
    atomic.append_jsonl(path, {"job": 1})
    with path.open("ab") as file:
        file.write(b'{"job": ')
    assert atomic.read_jsonl(path) == [{"job": 1}]


def test_a_torn_line_costs_no_other_record(tmp_path: Path) -> None:
    """What a killed writer left is void; also where two who come after it find it at once."""
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b'{"job": 1}\n{"jo')
    atomic.append_jsonl(path, {"job": 2})
    assert path.read_bytes().endswith(b'\n{"job":2}\n')
    with path.open("ab") as file:
        file.write(b'\x18\n{"job":3}\n')
    assert atomic.read_jsonl(path) == [{"job": 1}, {"job": 2}, {"job": 3}]


def test_a_record_that_lacks_only_its_end_of_line_is_kept(tmp_path: Path) -> None:
    """It was read as a record before the next append, and so it is after it."""
    path = tmp_path / "jobs.jsonl"
    atomic.append_jsonl(path, {"job": 1})
    atomic.append_jsonl(path, {"job": 2})
    path.write_bytes(path.read_bytes()[:-1])
    atomic.append_jsonl(path, {"job": 3})
    assert atomic.read_jsonl(path) == [{"job": 1}, {"job": 2}, {"job": 3}]


def test_files_are_synced_with_the_folders_above_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file, and each folder from it up to the one that was named."""
    files = [tmp_path / "a" / "b" / "1", tmp_path / "2"]
    files[0].parent.mkdir(parents=True)
    for path in files:
        path.write_text("")
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.add(os.fstat(fd).st_ino))
    atomic.sync_files(tmp_path, files)
    expected = (*files, tmp_path / "a" / "b", tmp_path / "a", tmp_path)
    assert synced == {path.stat().st_ino for path in expected}


def test_a_broken_line_before_the_end_is_an_error(tmp_path: Path) -> None:
    """Nobody's death explains it, and the line is named."""
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b'{"job": 1}\n{"jo\n{"job": 2}\n')
    with pytest.raises(IntegrityError, match="line 2"):
        atomic.read_jsonl(path)


def test_a_short_append_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk takes half a line, the file ends where it ended before."""
    path = tmp_path / "jobs.jsonl"
    atomic.append_jsonl(path, {"job": 1})
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:4]))
    with pytest.raises(StorageError, match="full"):
        atomic.append_jsonl(path, {"job": 2})
    assert path.read_bytes() == b'{"job":1}\n'


def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path: Path) -> None:
    """Where a journal or a record should lie: an error at once, not a reader that hangs."""
    path = tmp_path / "jobs.jsonl"
    os.mkfifo(path)
    for read in (
        lambda: atomic.read_jsonl(path),
        lambda: list(read_journal(path, RUN)),
        lambda: list(read_requests(path, RUN)),
        lambda: JournalFollower(path, RUN).new(),
    ):
        with pytest.raises(StorageError):
            read()
    with pytest.raises(StorageError):
        atomic.append_jsonl(path, {})


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Not by an append, not by a journal; a whole file takes the link's place."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(mine)
    with pytest.raises(StorageError, match="link"):
        atomic.append_jsonl(link, {"job": 1})
    with pytest.raises(StorageError):
        JournalWriter.create(link, RUN)
    atomic.write_text(link, "new")
    assert mine.read_text() == "precious"
    assert link.read_text() == "new"
    assert not link.is_symlink()


def test_what_killed_writers_left_goes_and_nothing_else(tmp_path: Path) -> None:
    """Also in folders within; hidden files of other kinds stay."""
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        atomic.temporary_name(folder / "units.json").touch()
    kept = [".00001.ab.owner", "units.json", "notes.tmp", ".x.tmp"]
    for name in kept:
        (tmp_path / "in" / name).touch()
    atomic.remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["in", *kept])


def test_names_are_asked_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that this node takes for absent is looked for in the folder's listing; a folder that
    is absent, or none, has no names."""
    (tmp_path / "made").touch()
    assert not atomic.is_there(tmp_path / "absent")
    assert atomic.look_anew(tmp_path / "absent") == frozenset()
    assert atomic.look_anew(tmp_path / "made") == frozenset()
    monkeypatch.setattr(os.path, "lexists", lambda _: False)  # as NFS for a minute
    assert atomic.is_there(tmp_path / "made")


def test_a_file_that_was_replaced_under_its_reader_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ESTALE is tried again, a few times; any other error is not."""
    (tmp_path / "beat").write_bytes(b"new")
    read, errors = Path.read_bytes, [errno.ESTALE, errno.ESTALE]

    def fails(path: Path) -> bytes:
        if errors:
            raise OSError(errors.pop(), "")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    assert atomic.read_whole(tmp_path / "beat") == b"new"
    for errors[:] in ([errno.EIO], [errno.ESTALE] * 9):
        with pytest.raises(OSError, match=rf"{errors[-1]}"):
            atomic.read_whole(tmp_path / "beat")
