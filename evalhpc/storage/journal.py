"""Journals: the append-only file of answers that one shard attempt writes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalhpc.core.frames import Damage, decode_meta, encode_meta
from evalhpc.core.identity import Answer
from evalhpc.storage.framed import FramedFile, FrameWriter

STATUS_MAX = 999


class JournalWriter:
    """Appends answers; what `flush` has returned for survives a crash.

    One thread may append while another flushes.
    """

    def __init__(self, frames: FrameWriter) -> None:
        self._frames = frames

    @classmethod
    def create(cls, path: Path, run_hash: str) -> JournalWriter:
        """A new journal; raises StorageError where one exists already."""
        return cls(FrameWriter(path, "journal", run_hash, keep=True))

    def append(self, key: bytes, answer: Answer) -> None:
        """Add one answer under its key of 20 bytes. Raises StorageError."""
        meta = answer_meta(answer.status, answer.content_type)
        self._frames.append(key, meta, answer.body, answer.latency, answer.attempts)

    def flush(self, *, sync: bool = True) -> None:
        """Write what was appended and, with `sync`, wait for the disk. Raises StorageError.

        After a full disk the journal ends behind its last whole answer; the others stay in
        memory, and a later flush tries them again.
        """
        self._frames.flush(sync=sync)

    def close(self) -> None:
        """Flush durably and close; closing twice is fine. Raises StorageError."""
        self._frames.close()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._frames.end(error)


def read_journal(path: Path, run_hash: str) -> Iterator[tuple[bytes, Answer] | Damage]:
    """(key, answer) or damage, in file order, in flat memory; raises as `read_frames`."""
    for item in read_frames(path, run_hash):
        yield item if isinstance(item, Damage) else item[1:]


def read_frames(path: Path, run_hash: str) -> Iterator[tuple[int, bytes, Answer] | Damage]:
    """(where its frame ends, key, answer) or damage, in file order, in flat memory.

    Raises IntegrityError for the journal of another run, StorageError if it cannot be read.
    """
    with FramedFile(path, "journal", run_hash) as file:
        for item in file.scan():
            if isinstance(item, Damage):
                yield item
                continue
            try:
                status, content_type = parse_answer_meta(file.meta(item))
            except ValueError as error:
                yield Damage(item.offset, item.end - item.offset, str(error))
                continue
            body = file.body(item)
            answer = Answer(status, content_type, body, item.latency, item.attempts)
            yield item.end, item.key, answer


@lru_cache(maxsize=1024)  # a journal has few different ones
def answer_meta(status: int, content_type: str) -> bytes:
    """The one spelling of an answer's meta; it is part of the digest."""
    return encode_meta({"status": status, "content_type": content_type})


def parse_answer_meta(meta: bytes) -> tuple[int, str]:
    """(status, content type); raises ValueError for any other spelling or shape."""
    value: Any = decode_meta(meta)
    match value:
        case {"status": int(status), "content_type": str(content_type)} if (
            0 <= status <= STATUS_MAX and answer_meta(int(status), content_type) == meta
        ):
            return status, content_type
    raise ValueError("meta is not that of an answer")
