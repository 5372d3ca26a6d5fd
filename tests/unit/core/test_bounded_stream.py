"""A log that never ends keeps its beginning and its end."""

from __future__ import annotations

from evalhpc.core.bounded_stream import BoundedStream
from evalhpc.core.masking import Mask, MaskedStream


def test_a_log_within_its_bound_is_passed_on_as_it_is() -> None:
    """To the last byte, and at once."""
    stream = BoundedStream(MaskedStream(Mask([])), most=10)
    assert stream.feed(b"12345") == b"12345"
    assert stream.feed(b"67890") == b"67890"
    assert stream.end() == b""


def test_the_middle_of_an_endless_log_is_left_out() -> None:
    """What is kept of the end is where the reason of a failure stands; memory stays flat."""
    stream = BoundedStream(MaskedStream(Mask([])), most=1000)
    written = b"".join(stream.feed(b"%07d\n" % number) for number in range(1 << 17))
    assert written == b"".join(b"%07d\n" % number for number in range(125))
    end = stream.end()
    assert end.endswith(b"0131071\n")
    assert b"log of more than 1000 bytes: 785432 left out here" in end
    assert len(end) < 300_000


def test_secrets_are_masked_before_anything_is_left_out() -> None:
    """Neither beginning nor end holds one that the cut would have hidden from the mask."""
    stream = BoundedStream(MaskedStream(Mask(["0123456789"])), most=4)
    written = stream.feed(b"a 0123456789 b 01234") + stream.feed(b"56789") + stream.end()
    assert written.startswith(b"a **\n[evalhpc")
    assert b"1234" not in written
