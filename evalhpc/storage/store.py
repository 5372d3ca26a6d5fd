"""The store: the indexed union of all journals, answering by key from mapped pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evalhpc.core.frames import DIGEST_BYTES, payload_digest
from evalhpc.core.identity import KEY_BYTES, Answer
from evalhpc.errors import FrameError
from evalhpc.storage.atomic import is_there
from evalhpc.storage.framed import DROP_BYTES, Mapped
from evalhpc.storage.journal import answer_meta
from evalhpc.storage.merge import MergeReport, merge_journals
from evalhpc.storage.store_file import (
    CODES,
    MOST_PREFIX_BITS,
    Code,
    Layout,
    not_a_store,
    prefix_bits,
    read_layout,
)

__all__ = ["MergeReport", "Store", "merge_journals"]

#: Bytes of a store that are read when it is opened: most stores are not larger.
READ_FIRST = 64 << 20


class Store:
    """Answers by key. Index and bodies stay in the page cache: memory does not grow with them.

    A later merge replaces the file; an open store goes on reading the one that it opened.
    """

    def __init__(self, path: Path, layout: Layout, file: Mapped | None) -> None:
        self.path = path
        self._layout = layout
        self._file = file
        self._answers = layout.answers
        #: How many seals the journals were read by.
        self.seals = layout.seals
        self._shift = MOST_PREFIX_BITS - prefix_bits(layout.answers)
        self._keys_at = layout.at.get("keys", 0)
        self._blob_at = layout.at.get("blob", 0)
        # Mapped columns whose items are plain Python numbers, at a third of numpy's price.
        self._column = {name: self._mapped(name, code) for name, code in CODES.items()}

    @classmethod
    def open(cls, path: Path, run_hash: str) -> Store:
        """The store at `path`; one that is absent is empty.

        Raises IntegrityError if it is damaged or another run's, StorageError if it is unreadable.
        """
        if not is_there(path):
            return cls.empty()
        layout = read_layout(path, run_hash)
        file = Mapped(path)
        if max(layout.ends) > len(file.buffer):
            file.close()
            raise not_a_store(path, "its end is missing")
        for at in range(0, READ_FIRST, DROP_BYTES):
            file.ahead(at, READ_FIRST)
        return cls(path, layout, file)

    @classmethod
    def empty(cls) -> Store:
        """A store without an answer."""
        return cls(Path(), Layout.empty(), None)

    def get(self, key: bytes) -> Answer | None:
        """The answer under this key of 20 bytes; None if there is none."""
        row = self._row(key)
        return None if row is None else self._answer(row)

    def has(self, key: bytes) -> bool:
        """Whether there is an answer under this key."""
        return self._row(key) is not None

    __contains__ = has

    def __len__(self) -> int:
        return self._answers

    def keys(self) -> Iterator[bytes]:
        """Every key, rising."""
        for place in range(self._answers):
            yield self._key(place)

    def journal(self, key: bytes) -> str:
        """The name of the journal that the answer came from; raises KeyError."""
        number: int = self._column["journal"][self._known(key)]
        return self._layout.journals[number]

    def digest(self, key: bytes) -> bytes:
        """The 16 bytes that prove key, status, content type and body; raises KeyError."""
        return self._digest(self._known(key))

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, digest) in the order of the keys: what `core.merkle.merkle_root` takes."""
        for place in range(self._answers):
            yield self._key(place), self._digest(self._column["rows"][place])

    def index(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Every key, rising (N of S20); the row of each (N); and the digests of the rows (N, 16).

        They are mapped: none may be kept once the store is closed.
        """
        data = self._file.buffer if self._file is not None else b""
        start, stop = self._layout.span("keys")
        keys = np.frombuffer(memoryview(data)[start:stop], f"S{KEY_BYTES}")
        start, stop = self._layout.span("digest")
        digests = np.frombuffer(memoryview(data)[start:stop], np.uint8)
        rows = np.asarray(self._column["rows"], np.int64)
        return keys, rows, digests.reshape(-1, DIGEST_BYTES)

    def verify(self) -> None:
        """Hash every answer again, in flat memory; raises FrameError naming the first bad one."""
        if self._file is not None:
            self._file.rewind()
        # By rows, so that the bodies are read in the order in which they lie.
        places = np.empty(self._answers, np.uint32)
        places[np.asarray(self._column["rows"])] = np.arange(self._answers, dtype=np.uint32)
        keys = (self._key(place) for place in map(int, places))
        bad = [key for row, key in enumerate(keys) if not self._verified(key, row)]
        if bad:
            raise FrameError(
                f"{self.path}: {len(bad)} of {len(self)} answers do not match their digest, "
                f"first {bad[0].hex()}",
                cause="the file was changed or its disk is failing",
                hint=f"mv {self.path} {self.path}.bad  # collecting again rebuilds it",
            )

    def close(self) -> None:
        """Give back the mapped file; closing twice is fine."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._column = {}
        self._answers = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the mapped file

    def _mapped(self, name: str, code: Code) -> memoryview[Any]:
        """A column of numbers."""
        start, stop = self._layout.span(name)
        data = memoryview(self._file.buffer if self._file is not None else b"")
        return data[start:stop].cast(code)

    def _bytes(self, start: int, stop: int) -> bytes:
        assert self._file is not None
        return self._file.buffer[start:stop]

    def _row(self, key: bytes) -> int | None:
        """Where a key's answer is; keys with the same first bits lie side by side."""
        if not self._answers or len(key) != KEY_BYTES:
            return None
        prefix = int.from_bytes(key[:2], "big") >> self._shift
        directory = self._column["directory"]
        first = directory[prefix]
        start = self._keys_at + first * KEY_BYTES
        some = self._bytes(start, self._keys_at + directory[prefix + 1] * KEY_BYTES)
        at = some.find(key)
        while at >= 0 and at % KEY_BYTES:  # it began within a key
            at = some.find(key, at + 1)
        return None if at < 0 else self._column["rows"][first + at // KEY_BYTES]

    def _known(self, key: bytes) -> int:
        row = self._row(key)
        if row is None:
            raise KeyError(key)
        return row

    def _key(self, place: int) -> bytes:
        start = self._keys_at + place * KEY_BYTES
        return self._bytes(start, start + KEY_BYTES)

    def _digest(self, row: int) -> bytes:
        start = self._layout.at["digest"] + row * DIGEST_BYTES
        return self._bytes(start, start + DIGEST_BYTES)

    def _answer(self, row: int) -> Answer:
        column = self._column
        start, stop = column["offsets"][row], column["offsets"][row + 1]
        return Answer(
            column["status"][row],
            self._layout.content_types[column["content_type"][row]],
            self._bytes(self._blob_at + start, self._blob_at + stop),
            column["latency"][row],
            column["attempts"][row],
        )

    def _verified(self, key: bytes, row: int) -> bool:
        answer = self._answer(row)
        meta = answer_meta(answer.status, answer.content_type)
        assert self._file is not None
        place = self._blob_at + self._column["offsets"][row]
        self._file.drop(place)
        self._file.ahead(place, len(self._file.buffer))
        return payload_digest(key, meta, answer.body) == self._digest(row)
