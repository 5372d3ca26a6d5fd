"""Archives that a harness left, opened within bounds: a few bytes may unpack to all of a disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

from evalhpc.errors import HarnessError

#: First bytes → how to read what they begin.
PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
ZIP = b"PK\x03\x04"
#: Archives within archives are looked through so deep.
DEEPEST = 3
#: What archives raise that are cut short, damaged or encrypted.
BROKEN = (EOFError, ValueError, RuntimeError, zipfile.BadZipFile, lzma.LZMAError,
          zlib.error)  # fmt: skip
#: Bytes that may be unpacked in one output folder, unless a run says otherwise.
MOST_UNPACKED = 64 << 30
#: Bytes of one archive that are held in memory, since they must be sought in or packed anew.
MOST_HELD = 1 << 30
#: Bytes of one read: the index of a zip file is read at once, and costs ten times its size.
_MOST_AT_ONCE = 32 << 20


class TooMuchUnpacked(HarnessError):
    """An archive that unpacks to more than may be looked through."""


class Budget:
    """How many bytes may still be unpacked; what reads them spends it."""

    def __init__(self, most: int = MOST_UNPACKED) -> None:
        self.most = most
        self.left = most

    def spend(self, size: int) -> None:
        """So many bytes more were unpacked; raises TooMuchUnpacked beyond the last."""
        self.left -= size
        if self.left < 0:
            raise _too_much(f"its archives unpack to more than {self.most} bytes")

    def held(self, stream: IO[bytes]) -> bytes:
        """All that `stream` unpacks to, in memory; raises TooMuchUnpacked beyond MOST_HELD."""
        data = stream.read(MOST_HELD + 1)
        self.spend(len(data))
        self.refuse_more(len(data))
        return data

    @staticmethod
    def refuse_more(size: int) -> None:
        """Raise TooMuchUnpacked for more bytes than are held in memory."""
        if size > MOST_HELD:
            raise _too_much(f"an archive in it unpacks to more than {MOST_HELD} bytes at once")


class _Sparing(io.RawIOBase):
    """A file that is never read as a whole: the index of a hostile zip may be all of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, _MOST_AT_ONCE + 1) if size >= 0 else _MOST_AT_ONCE + 1)
        if len(data) > _MOST_AT_ONCE:
            raise _too_much(f"an archive in it has an index of more than {_MOST_AT_ONCE} bytes")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def open_zip(stream: IO[bytes]) -> zipfile.ZipFile:
    """The zip file in `stream`; raises BadZipFile, and TooMuchUnpacked for an endless index."""
    return zipfile.ZipFile(_Sparing(stream))


def _too_much(what: str) -> TooMuchUnpacked:
    return TooMuchUnpacked(
        f"the harness's output cannot be looked through: {what}",
        cause="an archive that was made to fill a disk, or logs beyond all measure",
        hint="look at what the harness packs; then submit again with --set run.max_output=GIB",
    )
