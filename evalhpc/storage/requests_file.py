"""Plans and misses: framed files of requests, published whole, read whole or by byte range."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalhpc.core.frames import FILE_HEADER_BYTES, Damage, decode_meta, encode_meta
from evalhpc.core.identity import Request
from evalhpc.errors import IntegrityError
from evalhpc.storage.atomic import publish, storage_errors, temporary_name
from evalhpc.storage.framed import FramedFile, FrameWriter, damaged


class RequestWriter:
    """Appends requests to a hidden file that `publish` gives its name.

    As a context manager it publishes at a normal end and discards after an exception.
    """

    def __init__(self, path: Path, run_hash: str) -> None:
        self.path = path
        self._temporary = temporary_name(path)
        self._frames = FrameWriter(self._temporary, "requests", run_hash)

    @property
    def offset(self) -> int:
        """Where the next request will start, in bytes: the end of the range so far."""
        return self._frames.offset

    def append(self, request: Request) -> int:
        """Add a request and return its byte offset. Raises StorageError."""
        return self._frames.append(request.key, request_meta(request), request.body)

    def publish(self) -> None:
        """Make the file durable under its name, in place of any older one. Raises StorageError."""
        self._frames.close()
        with storage_errors(self.path):
            publish(self._temporary, self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._temporary.unlink(missing_ok=True)
        self._frames.abandon()

    def __enter__(self) -> RequestWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.publish()
        else:
            self.discard()


def read_requests(
    path: Path, run_hash: str, start: int | None = None, end: int | None = None
) -> Iterator[Request]:
    """The requests in the bytes start..end (default: all), in file order, in flat memory.

    Raises IntegrityError for any damage, another run, or a range that cuts a frame; StorageError
    if the file cannot be read.
    """
    with FramedFile(path, "requests", run_hash) as file:
        if file.damage is not None:
            raise damaged(path, file.damage)
        if end is not None and end > len(file.buffer):
            raise damaged(path, Damage(len(file.buffer), end - len(file.buffer), "missing"))
        for item in file.scan(FILE_HEADER_BYTES if start is None else start, end):
            if isinstance(item, Damage):
                raise damaged(path, item)
            yield parse_request(path, item.key, file.meta(item), file.body(item))


def request_meta(request: Request) -> bytes:
    """What a frame says of a request beside its key and body."""
    return _meta(request.benchmark, request.endpoint, request.method, request.path)


def parse_request(path: Path, key: bytes, meta: bytes, body: bytes) -> Request:
    """The request of a frame; raises IntegrityError for the frame of something else."""
    fields = _fields(meta)
    if fields is None:
        raise IntegrityError(
            f"{path}: the frame of {key.hex()} is not a request",
            cause="it was written by another version of evalhpc",
            hint="run the planning job of this run again",
        )
    return Request(key, *fields, body)


# A plan has few different metas: each is worked out once.
@lru_cache(maxsize=1024)
def _meta(benchmark: str, endpoint: str, method: str, path: str) -> bytes:
    fields = {"benchmark": benchmark, "endpoint": endpoint, "method": method, "path": path}
    return encode_meta(fields)


@lru_cache(maxsize=1024)
def _fields(meta: bytes) -> tuple[str, str, str, str] | None:
    """(benchmark, endpoint, method, path); None where this is not the meta of a request."""
    try:
        value: Any = decode_meta(meta)
    except ValueError:
        return None
    match value:
        case {
            "benchmark": str(benchmark),
            "endpoint": str(endpoint),
            "method": str(method),
            "path": str(target),
        }:
            return benchmark, endpoint, method, target
    return None
