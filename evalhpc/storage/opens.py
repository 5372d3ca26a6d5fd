"""Which files of some folders are opened meanwhile, by whatever process of this machine."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import struct
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)

#: Of <sys/inotify.h>.
_OPEN, _OVERFLOW, _IS_FOLDER = 0x20, 0x4000, 0x4000_0000
_EVENT = struct.Struct("iIII")
_BUFFER = 1 << 16


class Opens:
    """Within the block, the kernel (inotify) notes what is opened in each of the folders.

    Not below them: name each folder. It sees processes of this machine alone, in containers too.
    `probe`: a folder on the same file system that may be written to. By a file there it is found
    out whether opening is seen at all.
    """

    def __init__(self, folders: Iterable[Path], probe: Path) -> None:
        self._folders = [probe, *folders]
        self._probe = probe
        self._seen: set[Path] = set()
        self._why = ""

    @property
    def files(self) -> frozenset[Path] | None:
        """What was opened, once the block has ended; None where that cannot be told."""
        return None if self._why else frozenset(self._seen)

    def __enter__(self) -> Opens:
        """Watch from now on; that this machine cannot is no error."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._paths = dict(self._added()) if self._fd >= 0 else {}
        if self._fd < 0:
            self._fail()
        self._ends, self._end = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take in what is left, and find out whether the file system tells at all."""
        if error is None and not self._why:
            # Its event comes after all others, as one queue holds them.
            with tempfile.NamedTemporaryFile(dir=self._probe, prefix=".opened-") as file:
                name = Path(file.name)
        os.close(self._end)
        self._reader.join()
        os.close(self._ends)
        if self._fd >= 0:
            os.close(self._fd)
        if error is None and not self._why and name not in self._seen:
            self._why = "the file system does not tell"
        self._seen = {path for path in self._seen if path.parent != self._probe}
        if self._why:
            log.info("what is read cannot be told here: %s", self._why)

    def _added(self) -> Iterable[tuple[int, Path]]:
        for folder in self._folders:
            watch = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _OPEN)
            if watch < 0:
                return self._fail()  # too many folders for fs.inotify.max_user_watches
            yield watch, folder

    def _fail(self) -> None:
        self._why = f"inotify: {os.strerror(ctypes.get_errno())}"

    def _read(self) -> None:
        ended = False
        while not ended and self._fd >= 0:
            ready, _, _ = select.select([self._fd, self._ends], [], [])
            ended = self._ends in ready
            while data := self._piece():
                self._take(data)

    def _piece(self) -> bytes:
        try:
            return os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return b""

    def _take(self, data: bytes) -> None:
        place = 0
        while place < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, place)
            place += _EVENT.size + length
            name = data[place - length : place].rstrip(b"\0")
            if mask & _OVERFLOW:
                self._why = "more was opened at once than the kernel keeps"
            elif name and not mask & _IS_FOLDER:
                self._seen.add(self._paths[watch] / os.fsdecode(name))
