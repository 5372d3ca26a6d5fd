"""Lines of a stream that somebody else wrote: none is longer than memory bears."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

#: Bytes of one line; a sample of a long conversation has a few million.
MOST_LINE = 256 << 20


def lines_of(stream: IO[bytes], most: int = MOST_LINE) -> Iterator[bytes]:
    """Each line with its end; raises ValueError for one of more than `most` bytes."""
    while line := stream.readline(most + 1):
        if len(line) > most:
            raise ValueError(f"a line of more than {most} bytes")
        yield line
