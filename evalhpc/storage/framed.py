"""Reading and writing framed files: a mapped reader with flat memory, a group-committing writer."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

from evalhpc.core import frames
from evalhpc.core.frames import Buffer, Damage, Frame, Kind
from evalhpc.errors import FrameError, IntegrityError, StorageError
from evalhpc.storage.atomic import (
    open_file,
    storage_error,
    storage_errors,
    sync_folder,
    write_all,
)

#: Mapped pages are given back after this many bytes, and frames are written out after as many.
DROP_BYTES = 4 << 20
WRITE_BYTES = 1 << 20
#: What is read ahead goes here, and is not looked at: it is in the page cache by then.
_UNUSED = memoryview(bytearray(1 << 20))


class Mapped:
    """A file's bytes as one read-only buffer whose passed pages can be given back.

    A page that the file system does not deliver is a bus error, which ends the process without a
    word: what is to be read in order is read `ahead` of that, where it is a StorageError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            self._file = open_file(path)
            size = os.fstat(self._file.fileno()).st_size
            # mmap refuses an empty file, which a shard that died at once leaves behind.
            self.buffer: Buffer = (
                mmap.mmap(self._file.fileno(), size, prot=mmap.PROT_READ) if size else b""
            )
        self._dropped = 0
        self._ahead = 0

    def drop(self, until: int) -> None:
        """Take the pages before `until` out of this process's memory, some time."""
        if until - self._dropped < DROP_BYTES or not isinstance(self.buffer, mmap.mmap):
            return
        length = (until - self._dropped) // mmap.PAGESIZE * mmap.PAGESIZE
        self.buffer.madvise(mmap.MADV_DONTNEED, self._dropped, length)
        self._dropped += length

    def ahead(self, at: int, end: int) -> None:
        """Have the kernel read the DROP_BYTES behind `at`, up to `end`.

        Raises StorageError, and IntegrityError where the file has become shorter.
        """
        until = min(at + DROP_BYTES, end, len(self.buffer))
        self._ahead = max(self._ahead, at)
        while self._ahead < until:
            wanted = _UNUSED[: min(end, len(self.buffer)) - self._ahead]
            with storage_errors(self.path):
                got = os.preadv(self._file.fileno(), [wanted], self._ahead)
            if not got:
                raise IntegrityError(
                    f"{self.path} became shorter while it was read",
                    cause="it is being copied or restored, or its disk is failing",
                    hint=f"ls -l {self.path}  # again when nobody writes to this run",
                )
            self._ahead += got

    def rewind(self, at: int = 0) -> None:
        """Start over: the file will be read from there on."""
        self._dropped, self._ahead = 0, at

    def close(self) -> None:
        """Let go of the file; it is unmapped when the last view of it goes."""
        # mmap.close() would raise where the traceback of an error still holds such a view.
        self.buffer = b""
        with suppress(OSError):  # it was only read: nothing can be lost any more
            self._file.close()


class FramedFile(Mapped):
    """An open framed file of one run. Raises IntegrityError where it belongs to another."""

    def __init__(self, path: Path, kind: Kind, run_hash: str) -> None:
        super().__init__(path)
        #: A damaged file header hides nothing else: what it must have said is known.
        self.damage: Damage | None = None
        self.seed = frames.header_seed(frames.file_header(kind, run_hash))
        self.ahead(0, frames.FILE_HEADER_BYTES)
        header = frames.parse_file_header(self.buffer)
        if isinstance(header, Damage):
            self.damage = header
            return
        try:
            check_header(path, header, kind, run_hash)
        except IntegrityError:
            self.close()
            raise

    def __enter__(self) -> FramedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scan(
        self, start: int | None = None, end: int | None = None, *, check_payload: bool = True
    ) -> Generator[Frame | Damage, None, None]:
        """Frames and damage of a byte range (default: all), giving back what was passed."""
        if start is None and self.damage is not None and self.damage.length:
            yield self.damage
        first = frames.FILE_HEADER_BYTES if start is None else start
        last = len(self.buffer) if end is None else end
        self.rewind(first)
        self.ahead(first, last)
        with closing(
            frames.scan(self.buffer, self.seed, first, end, check_payload=check_payload)
        ) as items:
            for item in items:
                yield item
                self.drop(item.offset)
                passed = item.offset + item.length if isinstance(item, Damage) else item.end
                self.ahead(passed, last)

    def meta(self, frame: Frame) -> bytes:
        """A frame's meta: compact JSON."""
        return self.buffer[frame.meta_at : frame.body_at]

    def body(self, frame: Frame) -> bytes:
        """A frame's payload."""
        return self.buffer[frame.body_at : frame.end]


def check_header(path: Path, header: frames.FileHeader, kind: Kind, run_hash: str) -> None:
    """Raise IntegrityError for the header of something else than this kind of file of this run."""
    if (header.version, header.hash_name) != (frames.VERSION, frames.HASH_NAME):
        raise IntegrityError(
            f"{path} has format {header.version} with {header.hash_name}; "
            f"this evalhpc reads {frames.VERSION} with {frames.HASH_NAME}",
            cause="it was written by another version of evalhpc",
            hint="evalhpc --version  # use the version that started the run",
        )
    if header.kind != kind:
        raise IntegrityError(f"{path} holds frames of kind {header.kind}, not {kind}")
    if header.run_hash != run_hash:
        raise other_run(path, header.run_hash, run_hash)


def other_run(path: Path, found: str, expected: str) -> IntegrityError:
    """The error for a file that another run wrote."""
    return IntegrityError(
        f"{path} belongs to run {found[:10] or '(none)'}, not to run {expected[:10]}",
        cause="the file was copied here from another run, or run.yaml was edited",
        hint=f"move {path.name} to the run directory that it came from",
    )


class FrameWriter:
    """Appends frames; `flush` makes them durable in one go.

    Safe for one appending thread and several that flush. After a failed write the file ends behind
    its last whole frame and the rest stays in memory for the next flush. A failed sync may have
    lost anything since the last one: NFS takes bytes that it then has no room for, and says so
    once. With `keep`, frames stay in memory until they are synced, and are then written again;
    without, the writer is closed.
    """

    def __init__(self, path: Path, kind: Kind, run_hash: str, *, keep: bool = False) -> None:
        header = frames.file_header(kind, run_hash)
        self.path = path
        self._seed = frames.header_seed(header)
        self._frames: list[bytes] = []
        self._buffered = 0
        self._written = 0
        self._keep = keep
        self._unsynced: list[bytes] = []  # written, but perhaps not on the disk
        self._lock = threading.Lock()
        self._syncing = threading.Lock()  # an error is reported to one fsync only
        with storage_errors(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._frames.append(header)
        try:
            self._write_out()
            with storage_errors(path):
                sync_folder(path.parent)
        except StorageError:
            # Else a second try would find the name taken by an empty file.
            path.unlink(missing_ok=True)
            self.abandon()
            raise

    @property
    def offset(self) -> int:
        """Where the next frame will start, in bytes."""
        return self._written + self._buffered

    def append(
        self, key: bytes, meta: bytes, body: bytes, latency: float = 0.0, attempts: int = 0
    ) -> int:
        """Add a frame and return its offset. Raises StorageError."""
        frame = frames.encode_frame(self._seed, key, meta, body, latency, attempts)
        with self._lock:
            offset = self.offset
            self._frames.append(frame)
            self._buffered += len(frame)
            if self._buffered >= WRITE_BYTES:
                self._write_out()
        return offset

    def flush(self, *, sync: bool = True) -> None:
        """Hand every frame to the kernel and, with `sync`, to the disk. Raises StorageError."""
        with self._syncing:
            with self._lock:
                self._write_out()
                written = len(self._unsynced)
            if sync:
                self._sync(written)

    def close(self) -> None:
        """Flush durably and close; closing twice is fine. Raises StorageError."""
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without flushing. Raises StorageError (NFS reports a full disk this late)."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with storage_errors(self.path):
                os.close(fd)

    def end(self, error: BaseException | None) -> None:
        """Leave a `with` block that raised `error`, or none. Raises StorageError."""
        # A second failure of the same disk would only hide the first.
        if isinstance(error, StorageError):
            self.abandon()
        else:
            self.close()

    def _write_out(self) -> None:
        pending = self._frames
        if not pending:
            return
        if self._fd < 0:
            raise StorageError(f"{self.path} is closed")
        try:
            write_all(self._fd, b"".join(pending))
        except OSError as error:
            self._cut_to_whole_frames()
            raise storage_error(self.path, error) from error
        self._written += sum(map(len, pending))
        self._hold(pending)
        self._frames = []
        self._buffered = 0

    def _cut_to_whole_frames(self) -> None:
        """After a partial write: keep the frames that arrived whole, drop the torn one."""
        arrived = os.lseek(self._fd, 0, os.SEEK_CUR)
        while self._frames and self._written + len(self._frames[0]) <= arrived:
            frame = self._frames.pop(0)
            self._hold([frame])
            self._written += len(frame)
            self._buffered -= len(frame)
        self._cut()

    def _hold(self, written: list[bytes]) -> None:
        if self._keep:
            self._unsynced += written

    def _sync(self, written: int) -> None:
        """Make the first `written` of the unsynced frames durable."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            with self._lock:
                self._take_back()
            raise storage_error(self.path, error) from error
        with self._lock:
            del self._unsynced[:written]

    def _take_back(self) -> None:
        """After a failed sync: what was written since the last good one is yet to be written."""
        if not self._keep:
            self.abandon()
            return
        lost = sum(map(len, self._unsynced))
        self._frames = [*self._unsynced, *self._frames]
        self._unsynced = []
        self._buffered += lost
        self._written -= lost
        self._cut()

    def _cut(self) -> None:
        """End the file behind what counts as written."""
        os.lseek(self._fd, self._written, os.SEEK_SET)
        with storage_errors(self.path):
            os.ftruncate(self._fd, self._written)


def damaged(path: Path, damage: Damage) -> FrameError:
    """The error for damage where none is tolerable."""
    return FrameError(
        f"{path} is damaged: {damage}",
        cause="the file was cut short or changed after it was written",
        hint=f"ls -l {path}  # restore it, or run the pass that wrote it again",
    )
