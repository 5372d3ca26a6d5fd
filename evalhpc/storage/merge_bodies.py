"""The bodies of a store that is being made: written as they are read, closed up afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from evalhpc.storage.atomic import write_all
from evalhpc.storage.merge_order import Choice
from evalhpc.storage.spool import CHUNK, Records

#: The disk starts on what was written after so many bytes.
SYNC_BYTES = 32 << 20
#: Bytes that are moved at a time where bodies close up.
MOVED_BYTES = 1 << 20


class Bodies:
    """Bodies one behind the other from offset `at` of a new file on.

    One thread writes while the caller prepares the next bodies, another lets the disk start
    early; an OSError of theirs is raised by a later call. Use as a context manager.
    """

    def __init__(self, path: Path, at: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._at = at
        self.size = 0
        self._unsynced = 0
        self._writing = _Worker()
        self._syncing = _Worker()

    def __enter__(self) -> Bodies:
        return self

    def __exit__(self, *_: object) -> None:
        self._writing.close()
        self._syncing.close()
        os.close(self._fd)

    def add(self, pieces: list[memoryview]) -> None:
        """Write these (at most 1024) soon; they may change after the next call but one."""
        self._writing.result()
        if self._unsynced >= SYNC_BYTES and self._syncing.done():
            self._sync_soon()
        size = sum(map(len, pieces))
        self._writing.start(_write, self._fd, self._at + self.size, pieces, size)
        self.size += size
        self._unsynced += size

    def close_up(self, rows: Iterable[Records], choice: Choice) -> None:
        """Take out the bodies of the rows that do not stay; `rows` are all, in chunks."""
        self._writing.result()
        if choice.duplicates:
            self._move(rows, choice)
            os.ftruncate(self._fd, self._at + self.size)
        self._sync_soon()

    def _move(self, rows: Iterable[Records], choice: Choice) -> None:
        source = target = self._at
        for number, chunk in enumerate(rows):
            stays = choice.stays[number * CHUNK : number * CHUNK + len(chunk)]
            ends = np.cumsum(chunk["header"]["body_length"], dtype=np.int64)
            starts = np.concatenate(([0], ends))
            # Where a stretch of rows that stay begins, and where it is over.
            turns = np.flatnonzero(np.diff(np.concatenate(([False], stays, [False]))))
            for first, last in zip(turns[::2].tolist(), turns[1::2].tolist(), strict=True):
                begin, end = source + int(starts[first]), source + int(starts[last])
                if begin != target:
                    self._copy_down(begin, end, target)
                target += end - begin
            source += int(ends[-1])
        self.size = target - self._at

    def _copy_down(self, begin: int, end: int, target: int) -> None:
        while begin < end:
            moved = os.pread(self._fd, min(MOVED_BYTES, end - begin), begin)
            _write(self._fd, target, [memoryview(moved)], len(moved))
            begin += len(moved)
            target += len(moved)

    def sync(self) -> None:
        """Everything in the file is on the disk, whoever wrote it."""
        self._syncing.result()
        os.fsync(self._fd)

    def _sync_soon(self) -> None:
        self._syncing.result()
        self._syncing.start(os.fdatasync, self._fd)
        self._unsynced = 0


class _Worker:
    """A thread with one task at a time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._task: Future[None] | None = None

    def start(self, task: Callable[..., None], *args: object) -> None:
        self._task = self._pool.submit(task, *args)

    def done(self) -> bool:
        return self._task is None or self._task.done()

    def result(self) -> None:
        """Wait for the task; raises what it raised."""
        if self._task is not None:
            self._task.result()

    def close(self) -> None:
        self._pool.shutdown()


def _write(fd: int, at: int, pieces: list[memoryview], size: int) -> None:
    """One gathering write of `size` bytes; what it leaves (a full disk) plainly."""
    left = os.pwritev(fd, pieces, at) if pieces else 0
    if left == size:
        return
    for piece in pieces:
        if left >= len(piece):
            left -= len(piece)
        else:
            os.lseek(fd, at + left, os.SEEK_SET)
            write_all(fd, piece[left:])
            left = 0
        at += len(piece)
