"""Takes secrets out of the files that a harness wrote: each is overwritten by as many asterisks.

The length stays, so that offsets in databases and arrays hold. Archives are packed anew.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalhpc.core.masking import Mask
from evalhpc.errors import HarnessError, IntegrityError
from evalhpc.storage.atomic import publish, storage_errors, temporary_name, write_all
from evalhpc.storage.scan import files_below, stream_has

log = logging.getLogger(__name__)

Recode = Callable[[bytes], bytes]

#: First bytes → what unpacks piece by piece; how to unpack and pack all of what they begin.
_PACKED: dict[bytes, tuple[Callable[[], Any], Recode, Recode]] = {
    b"\x1f\x8b": (
        lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
        gzip.decompress,
        lambda data: gzip.compress(data, mtime=0),
    ),
    b"BZh": (bz2.BZ2Decompressor, bz2.decompress, bz2.compress),
    b"\xfd7zXZ": (lzma.LZMADecompressor, lzma.decompress, lzma.compress),
}
_ZIP = b"PK\x03\x04"
#: Stored, deflated, bzip2, xz: where a zip's first entry says how it is packed.
_ZIP_METHODS = frozenset({b"\x00\x00", b"\x08\x00", b"\x0c\x00", b"\x0e\x00"})
#: What archives raise that are cut short, damaged or encrypted.
_BROKEN = (EOFError, OSError, ValueError, RuntimeError, zipfile.BadZipFile, lzma.LZMAError,
           zlib.error)  # fmt: skip
#: What is left of those: enough to be seen as an archive of that kind, cut short.
_MAGIC = 6
#: So much of an archive tells whether it is one.
_HEAD = 1 << 12


def redact(folder: Path, mask: Mask) -> tuple[str, ...]:
    """Overwrite the secrets in every file below `folder`; the files that had one, sorted.

    Raises HarnessError for a link out of the folder to a file with a secret, which is not ours to
    change, and StorageError.
    """
    if not mask:
        return ()
    longest = max(map(len, mask.forms))
    found = []
    for path in files_below(folder):
        if not _has(path, mask, longest):
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise HarnessError(
                f"{path} links to {path.resolve()}, which holds a secret of this run",
                cause="the harness linked to a file outside of its output folder",
                hint="remove the secret from that file, then: evalhpc resume RUN",
            )
        _rewrite(path.resolve(), mask)
        found.append(str(path.relative_to(folder)))
    return tuple(sorted(found))


def _has(path: Path, mask: Mask, longest: int) -> bool:
    try:
        return stream_has(path, mask.found_in, longest)
    except IntegrityError as error:
        # Of a harness that was killed as it wrote; a pass that counts is refused for it later.
        log.warning("what cannot be looked through is taken out: %s", error.what)
        return True


def _rewrite(path: Path, mask: Mask) -> None:
    temporary = temporary_name(path)
    with storage_errors(path):
        data = redacted(path.read_bytes(), mask)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, data)
            os.fchmod(fd, path.stat().st_mode & 0o777)
            os.fsync(fd)
        finally:
            os.close(fd)
        publish(temporary, path)


def redacted(data: bytes, mask: Mask) -> bytes:
    """`data` with asterisks for each secret, archives (also in archives) included.

    Of an archive that cannot be read to its end the first bytes are left: it stays a broken one.
    """
    try:
        data = _repacked(data, mask)
    except _BROKEN:
        return data[:_MAGIC]
    parts, done = [], 0
    for start, end in mask.spans(data):
        parts += [data[done:start], b"*" * (end - start)]
        done = end
    return b"".join([*parts, data[done:]])


def _repacked(data: bytes, mask: Mask) -> bytes:
    if data.startswith(_ZIP) and data[8:10] in _ZIP_METHODS:
        return _rezipped(data, mask)
    for magic, (start, unpack, pack) in _PACKED.items():
        if data.startswith(magic) and _begins(start, data):
            unpacked = unpack(data)
            cleaned = redacted(unpacked, mask)
            return data if cleaned == unpacked else pack(cleaned)
    return data


def _begins(start: Callable[[], Any], data: bytes) -> bool:
    """Whether it can be unpacked at all: a text may begin with the first bytes of an archive."""
    try:
        start().decompress(data[:_HEAD])
    except (OSError, lzma.LZMAError, zlib.error):
        return False
    return True


def _rezipped(data: bytes, mask: Mask) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, redacted(old.read(entry), mask), entry.compress_type)
        new.comment = old.comment
    return out.getvalue()
