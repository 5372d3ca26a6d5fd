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
from collections.abc import Callable
from pathlib import Path

from evalhpc.core.masking import Mask
from evalhpc.errors import HarnessError, IntegrityError
from evalhpc.storage.atomic import publish, storage_errors, temporary_name, write_all
from evalhpc.storage.scan import files_below, stream_has

log = logging.getLogger(__name__)

#: First bytes → how to unpack and pack what they begin.
_PACKED: dict[bytes, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": (gzip.decompress, lambda data: gzip.compress(data, mtime=0)),
    b"BZh": (bz2.decompress, bz2.compress),
    b"\xfd7zXZ": (lzma.decompress, lzma.compress),
}
_ZIP = b"PK\x03\x04"


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
        log.warning("no secret was looked for behind this: %s", error.what)
        return False


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
    """`data` with asterisks for each secret, archives (also in archives) included."""
    if data.startswith(_ZIP):
        data = _rezipped(data, mask)
    for magic, (unpack, pack) in _PACKED.items():
        if data.startswith(magic):
            unpacked = unpack(data)
            cleaned = redacted(unpacked, mask)
            data = data if cleaned == unpacked else pack(cleaned)
    parts, done = [], 0
    for start, end in mask.spans(data):
        parts += [data[done:start], b"*" * (end - start)]
        done = end
    return b"".join([*parts, data[done:]])


def _rezipped(data: bytes, mask: Mask) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, redacted(old.read(entry), mask), entry.compress_type)
        new.comment = old.comment
    return out.getvalue()
