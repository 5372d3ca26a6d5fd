"""The layout of store.h5: contiguous HDF5 datasets, so that a reader can map all of it.

    attributes   format, run_hash, hash, answers, bytes, seals (how many its journals were read by)
    blob         uint8 (bytes)      the bodies, one behind the other
    offsets      int64 (N + 1)      body i is blob[offsets[i]:offsets[i + 1]]
    digest       uint8 (N, 16)      of key, status, content type and body: core.frames
    status       int16 (N)          content_type  uint32 (N), a line of `content_types`
    latency      float64 (N), s     attempts      uint32 (N)
    journal      uint32 (N), a line of `journals`
    keys         uint8 (N, 20)      every key, rising
    rows         int64 (N)          the row of each of `keys` in the datasets above
    directory    int64 (2 ** b + 1) keys whose first b bits are p are keys[directory[p]:…[p + 1]]
    content_types, journals         uint8: UTF-8 JSON lists of text

Rows are in the order of (journal name, place in it). Nothing in the file depends on the time or
the machine: the same journals and seals give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt

from evalhpc.core.frames import DIGEST_BYTES, HASH_NAME, decode_meta
from evalhpc.core.identity import KEY_BYTES
from evalhpc.errors import IntegrityError
from evalhpc.storage.atomic import storage_error
from evalhpc.storage.framed import other_run

FORMAT = 2
Code = Literal["q", "h", "I", "d"]
Column = npt.NDArray[np.generic]
#: column of N rows → (type on disk, elements a row where it is more than one)
COLUMNS: dict[str, tuple[str, int]] = {
    "digest": ("u1", DIGEST_BYTES),
    "status": ("<i2", 0),
    "content_type": ("<u4", 0),
    "latency": ("<f8", 0),
    "attempts": ("<u4", 0),
    "journal": ("<u4", 0),
}
BY_KEY: dict[str, tuple[str, int]] = {"keys": ("u1", KEY_BYTES), "rows": ("<i8", 0)}
#: The columns of numbers, as `memoryview.cast` knows their types.
CODES: dict[str, Code] = {
    "offsets": "q", "rows": "q", "directory": "q", "status": "h", "content_type": "I",
    "latency": "d", "attempts": "I", "journal": "I",
}  # fmt: skip
TABLES = ("content_types", "journals")
#: The directory's b: about so many keys share a prefix, until it has its most bits.
KEYS_A_PREFIX = 4
MOST_PREFIX_BITS = 16
#: What h5py and numpy raise for bytes that are no store, or no longer one.
_UNREADABLE = (OSError, KeyError, ValueError, AttributeError, TypeError, RuntimeError, MemoryError)
#: Rows of an index that are checked at a time when a store is opened.
CHECKED_ROWS = 1 << 16


@dataclass
class Layout:
    """Where a store's datasets start in its file, their sizes (both in bytes), and its tables."""

    answers: int
    at: dict[str, int]
    size: dict[str, int]
    content_types: list[str]
    journals: list[str]
    seals: int = 0

    @classmethod
    def empty(cls) -> Layout:
        """The layout of no answers."""
        return cls(0, {}, {}, [], [])

    @property
    def ends(self) -> list[int]:
        """Where each dataset ends."""
        return [start + self.size[name] for name, start in self.at.items()]

    def span(self, name: str) -> tuple[int, int]:
        """The bytes of a dataset."""
        start = self.at.get(name, 0)
        return start, start + self.size.get(name, 0)


def prefix_bits(answers: int) -> int:
    """How many bits of a key the directory of so many answers goes by."""
    return min(MOST_PREFIX_BITS, (answers // KEYS_A_PREFIX).bit_length())


def read_layout(path: Path, run_hash: str) -> Layout:
    """Where everything is. Raises IntegrityError, StorageError."""
    try:
        # Opened read-only and never in place: HDF5's lock would only fail where a file
        # system has none.
        with h5py.File(path, "r", locking=False) as file:
            _check(path, file, run_hash)
            layout = _layout(file)
            _check_index(file, layout)
            return layout
    except PermissionError as error:
        raise storage_error(path, error) from error
    except _UNREADABLE as error:
        raise not_a_store(path, str(error)) from error


def _layout(file: h5py.File) -> Layout:
    answers, size = int(file.attrs["answers"]), int(file.attrs["bytes"])
    layout = Layout.empty()
    layout.answers = answers
    layout.seals = int(file.attrs.get("seals", 0))
    for name in TABLES:
        table = decode_meta(file[name][()].tobytes())
        if not (isinstance(table, list) and all(isinstance(text, str) for text in table)):
            raise ValueError(f"`{name}` is no list of texts")
        setattr(layout, name, table)
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        name: ((answers, width) if width else (answers,), kind)
        for name, (kind, width) in (COLUMNS | BY_KEY).items()
    }
    expected["offsets"] = (answers + 1,), "<i8"
    expected["directory"] = ((1 << prefix_bits(answers)) + 1,), "<i8"
    expected["blob"] = (size,), "u1"
    for name, (shape, kind) in expected.items():
        dataset = file[name]
        if (dataset.shape, dataset.dtype, dataset.chunks) != (shape, np.dtype(kind), None):
            raise ValueError(f"`{name}` is {dataset.shape} of {dataset.dtype}, not {shape}")
        layout.at[name] = offset_of(dataset)
        layout.size[name] = dataset.size * dataset.dtype.itemsize
    return layout


def _check_index(file: h5py.File, layout: Layout) -> None:
    """Raise ValueError where an index leads astray; in flat memory."""
    answers, offsets, directory = layout.answers, file["offsets"], file["directory"][()]
    if offsets[0] != 0 or offsets[answers] != layout.size["blob"]:
        raise ValueError("its offsets do not tile its bodies")
    if directory[0] != 0 or directory[-1] != answers or np.any(np.diff(directory) < 0):
        raise ValueError("its directory does not tile its keys")
    for at in range(0, answers, CHECKED_ROWS):
        if np.any(np.diff(offsets[at : at + CHECKED_ROWS + 1]) < 0):
            raise ValueError("its offsets do not tile its bodies")
        keys = file["keys"][at : at + CHECKED_ROWS + 1].view(f"S{KEY_BYTES}")[:, 0]
        if np.any(keys[1:] <= keys[:-1]):
            raise ValueError("its keys do not rise")
        rows = file["rows"][at : at + CHECKED_ROWS]
        if rows.min() < 0 or rows.max() >= answers:
            raise ValueError("a key has no row")
        if file["content_type"][at : at + CHECKED_ROWS].max() >= len(layout.content_types):
            raise ValueError("a content type is missing")
        if file["journal"][at : at + CHECKED_ROWS].max() >= len(layout.journals):
            raise ValueError("the name of a journal is missing")


def offset_of(dataset: h5py.Dataset) -> int:
    """Where a contiguous dataset starts in its file, in bytes."""
    # An empty dataset has no place.
    return int(dataset.id.get_offset() or 0)


def stored_run(path: Path) -> str:
    """The run hash of an existing store. Raises IntegrityError, StorageError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _attribute(file, "run_hash")
    except PermissionError as error:
        raise storage_error(path, error) from error
    except _UNREADABLE as error:
        raise not_a_store(path, str(error)) from error


def not_a_store(path: Path, why: str) -> IntegrityError:
    """The error for a file that does not hold what a store must."""
    return IntegrityError(
        f"{path} is not a store of this evalhpc: {why}",
        cause="the file was cut short, changed, or written by something else",
        hint=f"mv {path} {path}.bad  # collecting again rebuilds it from the journals",
    )


def _attribute(file: h5py.File, name: str) -> str:
    return bytes(file.attrs[name]).decode("ascii", "replace")


def _check(path: Path, file: h5py.File, run_hash: str) -> None:
    found = (int(file.attrs["format"]), _attribute(file, "hash"))
    if found != (FORMAT, HASH_NAME):
        raise not_a_store(path, f"its format is {found}, not {(FORMAT, HASH_NAME)}")
    if _attribute(file, "run_hash") != run_hash:
        raise other_run(path, _attribute(file, "run_hash"), run_hash)
