"""A bound for output that never ends: its beginning and its end are kept, the middle is not."""

from __future__ import annotations

from typing import Protocol

#: Bytes of a log of a harness or a server: a week of a chatty one.
MOST_LOG = 1 << 30
#: Of what comes after these, the last: where the reason of a failure stands.
_TAIL = 256 << 10


class Stream(Protocol):
    """What output passes before it: it gives back what may be written by now."""

    def feed(self, piece: bytes) -> bytes:
        """The next piece."""

    def end(self) -> bytes:
        """What is left when no further piece comes."""


class BoundedStream:
    """Passes on `most` bytes of what `stream` gives; then a line that says so, and the last."""

    def __init__(self, stream: Stream, most: int = MOST_LOG) -> None:
        self._stream = stream
        self._left = most
        self._most = most
        self._tail = bytearray()
        self._dropped = 0

    def feed(self, piece: bytes) -> bytes:
        """What of it may be written now."""
        return self._taken(self._stream.feed(piece))

    def end(self) -> bytes:
        """What is left, behind a line on what is left out."""
        last = self._taken(self._stream.end())
        if not self._tail:
            return last
        said = (
            f"\n[evalhpc: a log of more than {self._most} bytes: {self._dropped} left out here]\n"
        )
        return last + said.encode() + bytes(self._tail)

    def _taken(self, data: bytes) -> bytes:
        taken, rest = data[: self._left], data[self._left :]
        self._left -= len(taken)
        self._tail += rest
        surplus = len(self._tail) - _TAIL
        if surplus > 0:
            del self._tail[:surplus]
            self._dropped += surplus
        return taken
