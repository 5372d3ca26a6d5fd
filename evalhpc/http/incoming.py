"""Reading one side's messages off a connection, within bounds whatever the peer sends."""

from __future__ import annotations

import httptools

#: Bytes of head, trailer or chunk extension, and fields in one message, before we give up.
MAX_HEAD = 64 * 1024
MAX_FIELDS = 256


class BadMessage(Exception):
    """A message that cannot be read any further; the connection ends with it."""


class HeadTooLarge(BadMessage):
    """More head, trailer or chunk framing than any honest peer sends."""


class BodyTooLarge(BadMessage):
    """A body over the limit of this side."""


class TooMuchHeld(BodyTooLarge):
    """Bodies that are too large together; this one alone may be as it should."""


class UpgradeAsked(BadMessage):
    """The peer wants to leave HTTP/1.1."""


class Held:
    """Bytes of unfinished bodies that one side holds now, over all of its connections."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = 0


class MessageReader:
    """The parser's callbacks that both sides share: fields and body, each bounded.

    A subclass makes the parser, says where a message begins and what to do with a complete one.
    """

    _parser: httptools.HttpRequestParser | httptools.HttpResponseParser

    def __init__(self, max_body: int, held: Held) -> None:
        self._max_body = max_body
        self._held = held
        self._holds = 0  # our part of it
        self._unproductive = 0  # bytes since the last one that got us further
        self._clear()

    def _clear(self) -> None:
        self._fields: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._let_go()

    def _let_go(self) -> None:
        """The body is complete, or of no more use: it no longer counts."""
        self._held.now -= self._holds
        self._holds = 0

    def _feed(self, data: bytes) -> None:
        """Parse what came; raises BadMessage."""
        self._unproductive += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise UpgradeAsked("the peer asked for another protocol") from error
        except httptools.HttpParserCallbackError as error:
            # Our callbacks raise through the parser, which keeps what they raised as context.
            if isinstance(error.__context__, BadMessage):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise BadMessage(str(error)) from error
        if self._unproductive > MAX_HEAD:
            raise HeadTooLarge(f"more than {MAX_HEAD} bytes of headers or chunk framing")

    def _expect_body(self, length: bytes | None) -> None:
        """A head is complete; `length` is its Content-Length (checked by the parser)."""
        self._unproductive = 0
        if length is not None and int(length) > self._max_body:
            raise BodyTooLarge(f"a body of {int(length)} bytes; the limit is {self._max_body}")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or trailer field."""
        if len(self._fields) >= MAX_FIELDS:
            raise HeadTooLarge(f"more than {MAX_FIELDS} header fields")
        self._fields.append((name.lower(), value))

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._unproductive = 0

    def on_body(self, data: bytes) -> None:
        """A piece of body."""
        self._unproductive = 0
        if len(self._body) + len(data) > self._max_body:
            raise BodyTooLarge(f"a body of more than {self._max_body} bytes")
        self._holds += len(data)
        self._held.now += len(data)
        if self._held.now > self._held.most:
            # A peer that fills every connection a little is as bad as one that fills one.
            raise TooMuchHeld(f"bodies of more than {self._held.most} bytes at the same time")
        if not self._body:
            self._body = data
            return
        if isinstance(self._body, bytes):
            # One buffer that grows: a list of one-byte chunks would cost forty times its content.
            self._body = bytearray(self._body)
        self._body += data
