"""Streams that mask: whatever is written, in whichever way."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from evalhpc.cli.masked import mask_streams

SECRET = "hf_0123456789ABCDEF"


@contextmanager
def masked() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Standard output and error, with the secret in the environment."""
    before, sinks = (sys.stdout, sys.stderr), (io.BytesIO(), io.BytesIO())
    sys.stdout, sys.stderr = (io.TextIOWrapper(sink, encoding="utf-8") for sink in sinks)
    mask_streams({"HF_TOKEN": SECRET})
    try:
        yield sinks
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before


def test_prints_logs_and_tracebacks_are_masked() -> None:
    """Text, bytes, a write in two parts, a log line with its traceback."""
    with masked() as streams:
        _write()
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = (sink.getvalue().decode() for sink in streams)
    assert out.count("***") == 3
    assert err.count("***") == 3
    assert SECRET not in out + err


def _write() -> None:
    print("token", SECRET)
    sys.stdout.buffer.write(SECRET.encode())
    sys.stdout.write(SECRET[:5])
    sys.stdout.write(SECRET[5:] + "\n")
    try:
        raise RuntimeError(f"bad key {SECRET}")
    except RuntimeError as error:
        traceback.print_exception(error)
        record = logging.LogRecord("x", logging.ERROR, "", 1, "sent %s", (SECRET,), sys.exc_info())
        logging.StreamHandler(sys.stderr).emit(record)


def test_what_begins_like_a_secret_comes_with_the_next_flush() -> None:
    """A prompt is not held back."""
    with masked() as streams:
        sys.stdout.write("hf_")
        sys.stdout.flush()
        assert streams[0].getvalue() == b"hf_"


def test_without_a_secret_the_streams_are_left_alone() -> None:
    """Most of the time there is nothing to mask."""
    before = sys.stdout, sys.stderr
    mask_streams({"PATH": "/bin:/usr/bin"})
    assert (sys.stdout, sys.stderr) == before
