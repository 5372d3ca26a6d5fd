"""What we print, log or die of shows no secret of our environment: the streams themselves mask."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, TextIO, cast

from evalhpc.core.masking import Mask, MaskedStream, mask_of


def mask_streams(environ: Mapping[str, str]) -> None:
    """Put a mask over standard output and error, if there is a secret to be masked."""
    mask = mask_of(environ)
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if mask and stream is not None:  # None: it was closed before we began
            setattr(sys, name, _masked(stream, mask))


def _masked(stream: TextIO, mask: Mask) -> TextIO:
    return io.TextIOWrapper(
        cast("BinaryIO", MaskedSink(stream, mask)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
        write_through=True,
    )


class MaskedSink(io.BufferedIOBase):
    """What lies below a text stream, with secrets masked, also if they are written in parts."""

    def __init__(self, stream: TextIO, mask: Mask) -> None:
        super().__init__()
        self._whole = stream  # once it is collected, its buffer is closed
        self._sink = stream.buffer
        self._stream = MaskedStream(mask)

    def writable(self) -> bool:
        """It is for writing only."""
        return True

    def write(self, data: Any) -> int:
        """All of `data`; what may be the beginning of a secret waits for the rest, or a flush."""
        taken = bytes(data)
        self._sink.write(self._stream.feed(taken))
        return len(taken)

    def flush(self) -> None:
        """Nothing waits any longer."""
        self._sink.write(self._stream.end())
        self._sink.flush()

    def fileno(self) -> int:
        """Of what lies below."""
        return self._sink.fileno()

    def isatty(self) -> bool:
        """Of what lies below."""
        return self._sink.isatty()
