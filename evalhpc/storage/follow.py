"""Files that others still append to: their whole frames, from one look to the next."""

from __future__ import annotations

from pathlib import Path

from evalhpc.core.frames import FILE_HEADER_BYTES, Damage, Frame, Kind
from evalhpc.core.identity import Answer, Request
from evalhpc.errors import StorageError
from evalhpc.storage.atomic import open_file
from evalhpc.storage.framed import FramedFile, FrameWriter
from evalhpc.storage.journal import parse_answer_meta
from evalhpc.storage.requests_file import parse_request, request_meta


class QueueWriter:
    """Appends requests to a file that is read while it grows; `flush` shows them."""

    def __init__(self, path: Path, run_hash: str) -> None:
        self._frames = FrameWriter(path, "requests", run_hash, keep=True)

    def append(self, request: Request) -> None:
        """Add a request. Raises StorageError."""
        self._frames.append(request.key, request_meta(request), request.body)

    def flush(self) -> None:
        """Make what was appended visible on other nodes. Raises StorageError."""
        self._frames.flush()

    def close(self) -> None:
        """Flush and close."""
        self._frames.close()


class _Growing:
    """Whole frames behind those that were read before; a torn one is read when it is whole.

    What is damaged in front of a whole one is passed over, but looked at again each time: a file
    server may show the parts of one write in any order.
    """

    def __init__(self, path: Path, kind: Kind, run_hash: str) -> None:
        self.path = path
        self._kind: Kind = kind
        self._run_hash = run_hash
        self._offset = FILE_HEADER_BYTES
        self._holes: list[tuple[int, int]] = []  # where each damaged span starts and ends

    def frames(self) -> list[tuple[Frame, bytes, bytes]]:
        """(frame, meta, body) of what is new. Raises StorageError, IntegrityError."""
        # Opening asks a network file system's server; the size in a cache may be old.
        try:
            with open_file(self.path) as file:
                size = file.seek(0, 2)
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}") from error
        if size <= self._offset and not self._holes:
            return []
        found: list[tuple[Frame, bytes, bytes]] = []
        with FramedFile(self.path, self._kind, self._run_hash) as file:
            holes = [hole for start, end in self._holes for hole in _read(file, start, end, found)]
            offset, tail = self._offset, _read(file, self._offset, None, found)
        offset = max([offset, *(frame.end for frame, _, _ in found)])
        self._holes = [*holes, *((start, end) for start, end in tail if start < offset)]
        self._offset = offset
        return found


def _read(
    file: FramedFile, start: int, end: int | None, found: list[tuple[Frame, bytes, bytes]]
) -> list[tuple[int, int]]:
    """Add a range's whole frames to `found`; returns its damaged spans."""
    damaged = []
    for item in file.scan(start, end):
        if isinstance(item, Damage):
            damaged.append((item.offset, item.offset + item.length))
        else:
            found.append((item, file.meta(item), file.body(item)))
    return damaged


class QueueReader(_Growing):
    """The requests of a QueueWriter, as they come."""

    def __init__(self, path: Path, run_hash: str) -> None:
        super().__init__(path, "requests", run_hash)

    def new(self) -> list[Request]:
        """What was shown since the last look."""
        return [parse_request(self.path, f.key, meta, body) for f, meta, body in self.frames()]


class JournalFollower(_Growing):
    """The answers of a journal, as its shard flushes them."""

    def __init__(self, path: Path, run_hash: str) -> None:
        super().__init__(path, "journal", run_hash)

    def new(self) -> list[tuple[bytes, Answer]]:
        """(key, answer) of what was flushed since the last look."""
        found = []
        for frame, meta, body in self.frames():
            try:
                status, content_type = parse_answer_meta(meta)
            except ValueError:
                continue  # the merge counts it as damage too, and its request is asked again
            answer = Answer(status, content_type, body, frame.latency, frame.attempts)
            found.append((frame.key, answer))
        return found
