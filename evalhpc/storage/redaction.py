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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from evalhpc.core.masking import Mask
from evalhpc.errors import HarnessError, IntegrityError
from evalhpc.storage.atomic import publish, storage_errors, temporary_name, write_all
from evalhpc.storage.scan import files_below, stream_has
from evalhpc.storage.unpacking import (
    BROKEN,
    DEEPEST,
    PACKED,
    ZIP,
    Budget,
    TooMuchUnpacked,
    open_zip,
)

log = logging.getLogger(__name__)

#: First bytes → what unpacks piece by piece; how to pack all of what they begin.
_PACKERS: dict[bytes, tuple[Callable[[], Any], Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": (
        lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
        lambda data: gzip.compress(data, mtime=0),
    ),
    b"BZh": (bz2.BZ2Decompressor, bz2.compress),
    b"\xfd7zXZ": (lzma.LZMADecompressor, lzma.compress),
}
#: Stored, deflated, bzip2, xz: where a zip's first entry says how it is packed.
_ZIP_METHODS = frozenset({b"\x00\x00", b"\x08\x00", b"\x0c\x00", b"\x0e\x00"})
#: What is left of archives that are damaged: enough to be seen as one of that kind, cut short.
_MAGIC = 6
#: So much of an archive tells whether it is one.
_HEAD = 1 << 12
_CHUNK = 1 << 20


def redact(folder: Path, mask: Mask, budget: Budget | None = None) -> tuple[str, ...]:
    """Overwrite the secrets in every file below `folder`; the files that had one, sorted.

    Raises HarnessError for a link out of the folder to a file with a secret, which is not ours to
    change, and for an archive that unpacks to more than `budget` has left, of which only the first
    bytes stay; and StorageError.
    """
    if not mask:
        return ()
    budget = budget or Budget()
    longest = max(map(len, mask.forms))
    found, refused = [], list[HarnessError]()
    for path in files_below(folder):
        try:
            if not _has(path, mask, longest, budget):
                continue
            _refuse_foreign(folder, path)
            _rewrite(path.resolve(), mask, budget)
        except TooMuchUnpacked as error:
            _refuse_foreign(folder, path)
            _replace(path.resolve(), _first_bytes)
            refused.append(error)
        found.append(str(path.relative_to(folder)))
    if refused:
        raise refused[0]
    return tuple(sorted(found))


def _refuse_foreign(folder: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise HarnessError(
            f"{path} links to {path.resolve()}, which holds a secret of this run",
            cause="the harness linked to a file outside of its output folder",
            hint="remove the secret from that file, then: evalhpc resume RUN",
        )


def _has(path: Path, mask: Mask, longest: int, budget: Budget) -> bool:
    try:
        return stream_has(path, mask.found_in, longest, budget)
    except IntegrityError as error:
        # Of a harness that was killed as it wrote; a pass that counts is refused for it later.
        log.warning("what cannot be looked through is taken out: %s", error.what)
        return True


def _rewrite(path: Path, mask: Mask, budget: Budget) -> None:
    _replace(path, lambda source: _redacted_parts(source, mask, budget))


def _replace(path: Path, parts: Callable[[IO[bytes]], Iterator[bytes]]) -> None:
    """Put what `parts` makes of the file in its place, whole or not at all."""
    temporary = temporary_name(path)
    with storage_errors(path), path.open("rb") as source:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            for part in parts(source):
                write_all(fd, part)
            os.fchmod(fd, path.stat().st_mode & 0o777)
            os.fsync(fd)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        publish(temporary, path)


def _first_bytes(source: IO[bytes]) -> Iterator[bytes]:
    yield source.read(_MAGIC)


def _redacted_parts(source: IO[bytes], mask: Mask, budget: Budget) -> Iterator[bytes]:
    head = source.read(_HEAD)
    source.seek(0)
    if _is_archive(head):
        yield redacted(budget.held(source), mask, budget)
    else:
        yield from _starred(source, mask)


def _starred(source: IO[bytes], mask: Mask) -> Iterator[bytes]:
    """The stream with as many asterisks for each secret, piece by piece."""
    longest = max(map(len, mask.forms))
    held = b""
    while True:
        chunk = source.read(_CHUNK)
        data = held + chunk
        # What begins before this is seen as a whole.
        sure = max(0, len(data) - longest) if chunk else len(data)
        spans = [(start, end) for start, end in mask.spans(data) if start < sure]
        sure = max(sure, spans[-1][1]) if spans else sure
        yield _stars(data, spans)[:sure]
        held = data[sure:]
        if not chunk:
            return


def _stars(data: bytes, spans: list[tuple[int, int]]) -> bytes:
    parts, done = list[bytes](), 0
    for start, end in spans:
        parts += [data[done:start], b"*" * (end - start)]
        done = end
    return b"".join([*parts, data[done:]])


def redacted(data: bytes, mask: Mask, budget: Budget, depth: int = DEEPEST) -> bytes:
    """`data` with asterisks for each secret, archives (also in archives) included.

    Of an archive that cannot be read to its end the first bytes are left: it stays a broken one.
    """
    if depth:
        try:
            data = _repacked(data, mask, budget, depth)
        except (*BROKEN, OSError):
            return data[:_MAGIC]
    return _stars(data, mask.spans(data))


def _repacked(data: bytes, mask: Mask, budget: Budget, depth: int) -> bytes:
    if data.startswith(ZIP) and data[8:10] in _ZIP_METHODS:
        return _rezipped(data, mask, budget, depth)
    for magic, (_, pack) in _PACKERS.items():
        if data.startswith(magic) and _is_archive(data[:_HEAD]):
            unpacked = budget.held(PACKED[magic](io.BytesIO(data)))
            cleaned = redacted(unpacked, mask, budget, depth - 1)
            return data if cleaned == unpacked else pack(cleaned)
    return data


def _is_archive(head: bytes) -> bool:
    """Whether it can be unpacked at all: a text may begin with the first bytes of an archive."""
    if head.startswith(ZIP):
        return head[8:10] in _ZIP_METHODS
    for magic, (start, _) in _PACKERS.items():
        if head.startswith(magic):
            try:
                start().decompress(head, 1 << 16)
            except (OSError, lzma.LZMAError, zlib.error):
                return False
            return True
    return False


def _rezipped(data: bytes, mask: Mask, budget: Budget, depth: int) -> bytes:
    out = io.BytesIO()
    with open_zip(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            with old.open(entry) as member:
                content = budget.held(member)
            new.writestr(entry, redacted(content, mask, budget, depth - 1), entry.compress_type)
            budget.refuse_more(out.tell())
        new.comment = old.comment
    return out.getvalue()
