"""Files that others still append to: their whole frames, from one look to the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from evalhpc.core.frames import (
    FILE_HEADER_BYTES,
    Damage,
    Frame,
    Kind,
    file_header,
    header_seed,
    parse_file_header,
    scan,
)
from evalhpc.core.identity import Answer, Request
from evalhpc.storage.atomic import open_file, storage_errors
from evalhpc.storage.framed import FrameWriter, check_header
from evalhpc.storage.journal import parse_answer_meta
from evalhpc.storage.requests_file import parse_request, request_meta

#: Where something starts and ends in a file, in bytes.
_Span: TypeAlias = tuple[int, int]


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
    server may show the parts of one write in any order. A writer whose disk fails cuts its file,
    and writes the same bytes there later: until then there is nothing new.
    """

    def __init__(self, path: Path, kind: Kind, run_hash: str) -> None:
        self.path = path
        self._kind: Kind = kind
        self._run_hash = run_hash
        self._seed = header_seed(file_header(kind, run_hash))
        self._offset = FILE_HEADER_BYTES
        self._holes: list[_Span] = []

    def frames(self) -> list[tuple[Frame, bytes, bytes]]:
        """(frame, meta, body) of what is new. Raises StorageError, IntegrityError."""
        found: list[tuple[Frame, bytes, bytes]] = []
        holes: list[_Span] = []
        *again, (_, news) = self._read()
        for (start, end), data in again:
            if len(data) < end - start:
                holes.append((start, end))
                continue
            whole, damaged = _scan(data, self._seed, start)
            found += whole
            holes += damaged
        whole, damaged = _scan(news, self._seed, self._offset)
        if whole:
            self._offset += whole[-1][0].end
        self._holes = holes + [span for span in damaged if span[0] < self._offset]
        return found + whole

    def _read(self) -> list[tuple[_Span, bytes]]:
        """What stands in the holes now, and behind the last whole frame.

        It is not mapped: a mapped page that its writer cuts off is a bus error.
        """
        # Opening asks a network file system's server; the size in a cache may be old.
        with storage_errors(self.path), open_file(self.path) as file:
            fd = file.fileno()
            size = max(os.fstat(fd).st_size, self._offset)
            if self._offset == FILE_HEADER_BYTES < size:
                # Of whole frames that were found since, the seed has told the same.
                header = parse_file_header(os.pread(fd, FILE_HEADER_BYTES, 0))
                if not isinstance(header, Damage):
                    check_header(self.path, header, self._kind, self._run_hash)
            spans = [*self._holes, (self._offset, size)]
            return [((start, end), os.pread(fd, end - start, start)) for start, end in spans]


def _scan(
    data: bytes, seed: int, start: int
) -> tuple[list[tuple[Frame, bytes, bytes]], list[_Span]]:
    """The whole frames of what stands at `start` of a file, and the damaged spans of that file."""
    whole, damaged = [], []
    for item in scan(data, seed, 0):
        if isinstance(item, Damage):
            damaged.append((start + item.offset, start + item.offset + item.length))
        else:
            whole.append((item, data[item.meta_at : item.body_at], data[item.body_at : item.end]))
    return whole, damaged


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
