"""What a merge knows of its journals: every frame checked, its header kept, its body passed on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalhpc.core import frames
from evalhpc.core.frames import FRAME_HEADER_BYTES, Damage
from evalhpc.errors import IntegrityError
from evalhpc.storage.framed import FramedFile
from evalhpc.storage.journal import parse_answer_meta
from evalhpc.storage.seals import Seals
from evalhpc.storage.spool import Records, Spool

#: Bytes of a journal that are read at a time: what the CPU's cache holds until it is written.
WINDOW = 1 << 20
#: Frames that are worked on at a time: as many as one gathering write takes.
FRAMES = 1024
#: One frame: its header, its place in its journal, which of `Index.parsed` it is, and its seal.
ROW = np.dtype([
    ("header", frames.FRAME_DTYPE), ("offset", "<i8"), ("meta", "<u4"), ("journal", "<u4"),
    ("seal", "<u4"),
])  # fmt: skip

Offsets = npt.NDArray[np.int64]


class Index:
    """Every good frame of the journals in (journal name, place) order, in flat memory.

    With `seals` only what they cover of each.

    `keep` is given the bodies in this order, up to FRAMES at a time; they lie in buffers that are
    used again after its next call. Raises OSError where a journal or the `folder` of a temporary
    file cannot be used, IntegrityError where a journal shrinks, else as `FramedFile`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        run_hash: str,
        folder: Path,
        keep: Callable[[list[memoryview]], None],
        seals: Seals | None = None,
    ) -> None:
        self.paths = paths
        self._seals = seals
        self._ends, self._numbers = np.empty(0, "<i8"), np.zeros(1, "<u4")
        self.damaged: list[tuple[Path, Damage]] = []
        self.parsed: list[tuple[int, str]] = []  # the distinct (status, content type)
        self._metas: dict[bytes, int] = {}
        self._keep = keep
        self.rows = Spool(ROW, folder)
        self._buffer = memoryview(bytearray(WINDOW))
        self._other = memoryview(bytearray(WINDOW))
        self._last = b""  # a meta of `_metas`
        self._kept = False  # whether bodies in `_buffer` were passed on
        for number, path in enumerate(paths):
            with FramedFile(path, "journal", run_hash) as file, path.open("rb") as stream:
                self._add(number, file, stream.fileno())

    def _add(self, number: int, file: FramedFile, fd: int) -> None:
        if file.damage is not None and file.damage.length:
            self.damaged.append((file.path, file.damage))
        at, stop = frames.FILE_HEADER_BYTES, len(file.buffer)
        if self._seals is not None:
            ends, numbers = self._seals.marks(file.path.name)
            stop = min(stop, ends[-1] if ends else 0)
            self._ends, self._numbers = np.array(ends[:-1], "<i8"), np.array(numbers, "<u4")
        while at < stop:
            window = self._read(file.path, fd, at, stop)
            begin, end = at, at + len(window)
            while at < end:
                found = self._frames(number, file, window, begin, at)
                # A frame that the window may have cut is read again rather than looked at alone.
                if found == at and at - begin > len(window) // 2:
                    break
                at = found if found > at else self._one(number, file, at, stop)

    def _read(self, path: Path, fd: int, at: int, stop: int) -> memoryview:
        """The next window, in a buffer that nobody reads any more."""
        if self._kept:
            self._buffer, self._other = self._other, self._buffer
            self._kept = False
        length = os.preadv(fd, [self._buffer[: stop - at]], at)
        if not length:
            raise IntegrityError(
                f"{path} became shorter while it was merged",
                cause="it is being copied or restored, or its disk is failing",
                hint="merge again when nobody writes to this run",
            )
        return self._buffer[:length]

    def _frames(
        self, number: int, file: FramedFile, window: memoryview, begin: int, at: int
    ) -> int:
        """Take good frames of a window that starts at `begin`; where the last of them ends."""
        offsets = frames.whole_headers(window, at - begin, len(window), file.seed, FRAMES)
        ends = offsets[1:]
        if not ends:
            return at
        rows = self._rows(number, window, offsets[:-1])
        checksums = frames.payload_checksums(window, zip(meta_at(rows).tolist(), ends, strict=True))
        if checksums != rows["header"]["checksum"].tolist():
            good = int(np.argmin(np.array(checksums, "<u8") == rows["header"]["checksum"]))
            rows, ends = rows[:good], ends[:good]
        if not ends:
            return at
        self._take(file.path, window, begin, rows, np.array(ends))
        return begin + ends[-1]

    def _one(self, number: int, file: FramedFile, at: int, stop: int) -> int:
        """Take the frame or damage at `at` from the mapped file; where it ends."""
        with closing(frames.scan(file.buffer, file.seed, at, stop)) as items:
            item = next(items)
        file.drop(at)
        if isinstance(item, Damage):
            self.damaged.append((file.path, item))
            return at + item.length
        view = memoryview(file.buffer)
        self._take(file.path, view, 0, self._rows(number, view, [at]), np.array([item.end]))
        return item.end

    def _rows(self, number: int, view: memoryview, offsets: list[int]) -> Records:
        """The rows of the frames at these offsets of `view`."""
        rows = np.empty(len(offsets), ROW)
        packed = b"".join([view[at : at + FRAME_HEADER_BYTES] for at in offsets])
        rows["header"] = np.frombuffer(packed, frames.FRAME_DTYPE)
        rows["offset"] = offsets
        rows["journal"] = number
        return rows

    def _take(
        self,
        path: Path,
        view: memoryview,
        begin: int,
        rows: Records,
        ends: Offsets,
    ) -> None:
        """Keep rows whose frames are good, and their bodies, unless their meta is not an answer's.

        `view` starts at `begin` of the journal; offsets in `rows` and `ends` are within it.
        """
        metas_at, bodies = meta_at(rows), body_at(rows)
        rows["offset"] += begin
        rows["seal"] = self._numbers[np.searchsorted(self._ends, ends + begin)]
        if not self._all_as_before(view, metas_at, bodies, rows):
            answers = self._number_metas(path, view, metas_at, bodies, rows)
            rows, bodies, ends = rows[answers], bodies[answers], ends[answers]
        self.rows.append(rows)
        spans = zip(bodies.tolist(), ends.tolist(), strict=True)
        self._keep([view[start:end] for start, end in spans])
        self._kept = True

    def _all_as_before(
        self, view: memoryview, starts: Offsets, ends: Offsets, rows: Records
    ) -> bool:
        """Whether all metas are the last one that was seen, as is usual; then numbers them."""
        meta = self._last
        width = len(meta)
        if not width or np.any(ends - starts != width):
            return False
        found = b"".join([view[start : start + width] for start in starts.tolist()])
        if found != meta * len(rows):
            return False
        rows["meta"] = self._metas[meta]
        return True

    def _number_metas(
        self, path: Path, view: memoryview, starts: Offsets, ends: Offsets, rows: Records
    ) -> npt.NDArray[np.bool_]:
        """Which rows have the meta of an answer; numbers those."""
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        metas = [bytes(view[start:end]) for start, end in spans]
        for meta, row in zip(metas, rows, strict=True):
            if meta not in self._metas:
                self._learn(path, meta, row)
        found = np.array([self._metas.get(meta, -1) for meta in metas])
        rows["meta"] = np.maximum(found, 0)
        if found[-1] >= 0:
            self._last = metas[-1]
        return found >= 0

    def _learn(self, path: Path, meta: bytes, row: np.void) -> None:
        """Number a meta that is new, if it is that of an answer."""
        try:
            self.parsed.append(parse_answer_meta(meta))
        except ValueError as error:
            length = FRAME_HEADER_BYTES + len(meta) + int(row["header"]["body_length"])
            self.damaged.append((path, Damage(int(row["offset"]), length, str(error))))
        else:
            self._metas[meta] = len(self._metas)


def meta_at(rows: Records) -> npt.NDArray[np.int64]:
    """Where the meta of each row starts in its journal."""
    offsets: npt.NDArray[np.int64] = rows["offset"] + FRAME_HEADER_BYTES
    return offsets


def body_at(rows: Records) -> npt.NDArray[np.int64]:
    """Where the body of each row starts in its journal."""
    offsets: npt.NDArray[np.int64] = meta_at(rows) + rows["header"]["meta_length"]
    return offsets
