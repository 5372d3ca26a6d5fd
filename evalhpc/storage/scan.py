"""Looks for stubs, or anything else, in what a harness wrote, archives included."""

from __future__ import annotations

import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from evalhpc.core.stubs import MARKER_BYTES, carries_stub
from evalhpc.errors import IntegrityError
from evalhpc.storage.atomic import storage_errors
from evalhpc.storage.outputs import plain_files
from evalhpc.storage.unpacking import BROKEN, DEEPEST, PACKED, ZIP, Budget, open_zip

_CHUNK = 1 << 20
#: In UTF-16 a marker has a zero byte after (or before) each of its letters.
_WIDE = MARKER_BYTES.decode().encode("utf-16-le")
_OVERLAP = len(_WIDE)


Has = Callable[[bytes], bool]


def files_with_stubs(folder: Path, budget: Budget | None = None) -> tuple[str, ...]:
    """Files below `folder` that hold a stub's marker, as sorted relative names.

    Zip, gzip, bzip2 and xz content is looked through, since several harnesses log into archives.
    What lies outside and is only linked is neither published nor looked at (`outputs`).
    Raises IntegrityError for an archive that cannot be read, HarnessError for one that unpacks
    to more than `budget` has left.
    """
    budget = budget or Budget()
    found = (p for p in plain_files(folder) if stream_has(p, _has_marker, _OVERLAP, budget))
    return tuple(sorted(str(path.relative_to(folder)) for path in found))


def files_below(folder: Path) -> Iterator[Path]:
    """Every file in it, also through links; folders once, and none outside of it."""
    root, seen = folder.resolve(), set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or not Path(real).is_relative_to(root):  # a link back, or to all the disk
            folders.clear()
            continue
        seen.add(real)
        yield from (path for name in names if (path := Path(place, name)).is_file())


def stream_has(path: Path, has: Has, longest: int, budget: Budget | None = None) -> bool:
    """Whether `has` is true of a part of the file, or of what is packed in it.

    What it looks for has `longest` bytes at most. Raises IntegrityError, StorageError, and
    HarnessError for an archive that unpacks to more than `budget` has left.
    """
    try:
        with storage_errors(path), path.open("rb") as stream:
            return _Search(has, longest, budget or Budget()).stream(stream, DEEPEST)
    except BROKEN as error:
        raise IntegrityError(
            f"{path} cannot be looked through: {error}",
            cause="the harness was cut off while it wrote this archive, or encrypted it",
            hint="run the pass again: evalhpc resume RUN",
        ) from error


class _Search:
    """Whether something stands in a stream, or in what is packed in it."""

    def __init__(self, has: Has, longest: int, budget: Budget) -> None:
        self._has = has
        self._longest = longest
        self._budget = budget

    def stream(self, stream: IO[bytes], depth: int) -> bool:
        """The same for a stream, and `depth` archives within one another below it."""
        head = stream.read(len(ZIP) + 2)
        stream.seek(0)
        if any(self._has(window) for window in self._windows(stream, depth)):
            return True
        if depth == 0:
            return False
        stream.seek(0)
        if head.startswith(ZIP):
            with open_zip(stream) as archive:
                return any(self._member(archive, name, depth) for name in archive.namelist())
        for magic, unpack in PACKED.items():
            if head.startswith(magic):
                with unpack(stream) as unpacked:
                    return _is_packed(unpacked) and self.stream(unpacked, depth - 1)
        return False

    def _member(self, archive: zipfile.ZipFile, name: str, depth: int) -> bool:
        with archive.open(name) as member:
            packed = member.read(len(ZIP)) == ZIP
        with archive.open(name) as member:
            # An archive in an archive needs to be sought in; anything else is streamed.
            inner: IO[bytes] = io.BytesIO(self._budget.held(member)) if packed else member
            return self.stream(inner, depth - 1)

    def _windows(self, stream: IO[bytes], depth: int) -> Iterator[bytes]:
        tail = b""
        while chunk := stream.read(_CHUNK):
            if depth < DEEPEST:
                self._budget.spend(len(chunk))
            window = tail + chunk
            yield window
            tail = window[-self._longest :]


def _is_packed(unpacked: IO[bytes]) -> bool:
    """Whether something can be unpacked: a text may begin with the first bytes of an archive."""
    try:
        unpacked.read(1)
    except (OSError, lzma.LZMAError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:
            raise
        return False
    unpacked.seek(0)
    return True


def _has_marker(window: bytes) -> bool:
    return carries_stub(window) or _WIDE in window
