"""Looks for stubs, or anything else, in what a harness wrote, archives included."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from evalhpc.core.stubs import MARKER_BYTES, carries_stub
from evalhpc.errors import IntegrityError
from evalhpc.storage.atomic import storage_errors
from evalhpc.storage.outputs import plain_files

_CHUNK = 1 << 20
#: In UTF-16 a marker has a zero byte after (or before) each of its letters.
_WIDE = MARKER_BYTES.decode().encode("utf-16-le")
_OVERLAP = len(_WIDE)
#: First bytes → how to read what they begin.
_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_ZIP = b"PK\x03\x04"
#: Archives within archives are looked through so deep.
_DEEPEST = 3


Has = Callable[[bytes], bool]


def files_with_stubs(folder: Path) -> tuple[str, ...]:
    """Files below `folder` that hold a stub's marker, as sorted relative names.

    Zip, gzip, bzip2 and xz content is looked through, since several harnesses log into archives.
    What lies outside and is only linked is neither published nor looked at (`outputs`).
    Raises IntegrityError for an archive that cannot be read.
    """
    found = (path for path in plain_files(folder) if stream_has(path, _has_marker, _OVERLAP))
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


def stream_has(path: Path, has: Has, longest: int) -> bool:
    """Whether `has` is true of a part of the file, or of what is packed in it.

    What it looks for has `longest` bytes at most. Raises IntegrityError, StorageError.
    """
    try:
        with storage_errors(path), path.open("rb") as stream:
            return _stream_has(stream, has, longest, _DEEPEST)
    except (EOFError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, RuntimeError) as error:
        raise IntegrityError(
            f"{path} cannot be looked through: {error}",
            cause="the harness was cut off while it wrote this archive, or encrypted it",
            hint="run the pass again: evalhpc resume RUN",
        ) from error


def _stream_has(stream: IO[bytes], has: Has, longest: int, depth: int) -> bool:
    head = stream.read(len(_ZIP) + 2)
    stream.seek(0)
    if any(has(window) for window in _windows(stream, longest)):
        return True
    if depth == 0:
        return False
    stream.seek(0)
    if head.startswith(_ZIP):
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            return any(_member_has(archive, name, has, longest, depth) for name in names)
    for magic, unpack in _PACKED.items():
        if head.startswith(magic):
            with unpack(stream) as unpacked:
                return _is_packed(unpacked) and _stream_has(unpacked, has, longest, depth - 1)
    return False


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


def _member_has(archive: zipfile.ZipFile, name: str, has: Has, longest: int, depth: int) -> bool:
    with archive.open(name) as member:
        packed = member.read(len(_ZIP)) == _ZIP
    with archive.open(name) as member:
        # An archive in an archive needs to be sought in; anything else is streamed.
        inner: IO[bytes] = io.BytesIO(member.read()) if packed else member
        return _stream_has(inner, has, longest, depth - 1)


def _has_marker(window: bytes) -> bool:
    return carries_stub(window) or _WIDE in window


def _windows(stream: IO[bytes], longest: int) -> Iterator[bytes]:
    tail = b""
    while chunk := stream.read(_CHUNK):
        window = tail + chunk
        yield window
        tail = window[-longest:]
