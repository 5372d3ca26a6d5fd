"""Writing the layout of store.h5: everything but the bodies before it, in flat memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from evalhpc.core.frames import HASH_NAME, encode_meta
from evalhpc.storage.atomic import write_all
from evalhpc.storage.spool import prefixes
from evalhpc.storage.store_file import (
    BY_KEY,
    COLUMNS,
    FORMAT,
    MOST_PREFIX_BITS,
    TABLES,
    Column,
    offset_of,
    prefix_bits,
)


class _Target(io.FileIO):
    """The file below HDF5, which takes it for empty at first: the bodies in it are ours.

    It keeps its first error for us: HDF5 crashes the process when it cannot write a file's end
    (a full disk), and never gets to say so.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r+")
        self.error: OSError | None = None
        self._end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(self._end if whence == os.SEEK_END else offset)

    def write(self, data: memoryview) -> int:  # type: ignore[override]  # what h5py gives
        try:
            if self.error is None:
                write_all(self.fileno(), data)
                self._end = max(self._end, self.tell())
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                os.ftruncate(self.fileno(), size or 0)
                self._end = size or 0
        except OSError as error:
            self.error = error
        return size or 0


class LayoutWriter:
    """Completes a file that holds a store's bodies. A failed write is raised by `close`."""

    def __init__(self, path: Path, run_hash: str, answers: int, size: int, seals: int = 0) -> None:
        self._answers = answers
        self._target = _Target(path)
        self._file, at = _begun(self._target, run_hash, answers, size)
        if size and at != bodies_at(run_hash):
            raise RuntimeError(f"HDF5 puts bodies at {at} that are at {bodies_at(run_hash)}")
        self._file.attrs["seals"] = seals

    def rows(self, chunks: Iterable[Mapping[str, Column]]) -> None:
        """Write COLUMNS, and as `offsets` the sums of `length`, the bodies' sizes, of all rows."""
        columns = {name: self._allocate(name, *shape) for name, shape in COLUMNS.items()}
        offsets = _allocate(self._file, "offsets", (self._answers + 1,), "<i8")
        at = size = 0
        for chunk in chunks:
            ends = size + np.cumsum(chunk["length"], dtype=np.int64)
            place = slice(at, at + len(ends))
            for name, column in columns.items():
                column[place] = chunk[name]
            offsets[at + 1 : at + 1 + len(ends)] = ends
            at += len(ends)
            size = int(ends[-1]) if len(ends) else size
        offsets[0] = 0

    def by_key(self, chunks: Iterable[Mapping[str, Column]]) -> None:
        """Write BY_KEY and the directory."""
        columns = {name: self._allocate(name, *shape) for name, shape in BY_KEY.items()}
        bits = prefix_bits(self._answers)
        counts = np.zeros(1 << bits, np.int64)
        at = 0
        for chunk in chunks:
            keys = np.asarray(chunk["keys"], np.uint8)
            place = slice(at, at + len(keys))
            for name, column in columns.items():
                column[place] = chunk[name]
            counts += np.bincount(
                prefixes(keys) >> (MOST_PREFIX_BITS - bits), minlength=len(counts)
            )
            at += len(keys)
        directory = np.concatenate(([0], np.cumsum(counts)))
        _allocate(self._file, "directory", directory.shape, "<i8")[...] = directory

    def tables(self, **tables: list[str]) -> None:
        """Write TABLES."""
        for name in TABLES:
            text = np.frombuffer(encode_meta(tables[name]), "u1")
            _allocate(self._file, name, text.shape, "u1")[...] = text

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._target.error is not None:
            raise self._target.error

    def __enter__(self) -> LayoutWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._target.close()

    def _allocate(self, name: str, kind: str, width: int) -> h5py.Dataset:
        shape = (self._answers, width) if width else (self._answers,)
        return _allocate(self._file, name, shape, kind)


def bodies_at(run_hash: str) -> int:
    """Where the bodies start in the store of a run, however many there are."""
    file, at = _begun(io.BytesIO(), run_hash, 1, 1)
    file.close()
    return at


def _begun(target: io.IOBase, run_hash: str, answers: int, size: int) -> tuple[h5py.File, int]:
    """A new HDF5 file and where its first dataset is: the bodies."""
    # The oldest layout that holds this: readable everywhere, without times or random ids.
    file = h5py.File(target, "w", libver=("earliest", "v108"), track_order=False)
    for name, value in (
        ("format", FORMAT),
        ("run_hash", np.bytes_(run_hash.encode("ascii"))),
        ("hash", np.bytes_(HASH_NAME.encode("ascii"))),
        ("answers", answers),
        ("bytes", size),
    ):
        file.attrs[name] = value
    return file, offset_of(_allocate(file, "blob", (size,), "u1"))


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], kind: str) -> h5py.Dataset:
    """A contiguous dataset whose space is there, unwritten."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    type_ = h5py.h5t.py_create(np.dtype(kind), logical=True)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), type_, space, plist))
