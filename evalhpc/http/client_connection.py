"""One connection to a model server: a request out, its reply in, within time and size."""

from __future__ import annotations

import asyncio

import httptools

from evalhpc.http.errors import FailureKind, TransportError
from evalhpc.http.incoming import (
    BadMessage,
    BodyTooLarge,
    HeadTooLarge,
    Held,
    MessageReader,
    TooMuchHeld,
)
from evalhpc.http.messages import HttpResponse, find_field

#: Above this size, head and body go out as two buffers instead of one copy.
_COPY_LIMIT = 64 * 1024


class ClientConnection(MessageReader, asyncio.Protocol):
    """Carries one exchange at a time; anything unexpected ends the connection."""

    _transport: asyncio.Transport

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, max_reply: int, held: Held | None = None
    ) -> None:
        """`held` is shared by the connections of one client."""
        super().__init__(max_reply, held or Held(max_reply))
        self._loop = loop
        self._name = name  # of the server, for messages
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self._reply: asyncio.Future[HttpResponse] | None = None
        self._bodiless = False  # the reply to a HEAD
        self._in_body = False
        self._ends_with_connection = False
        self._deadline = 0.0  # on the loop's clock
        self._timeout = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.heard = False  # a byte of the current reply came
        self.reusable = False

    def exchange(
        self, head: bytes, body: bytes, timeout: float, *, bodiless: bool = False
    ) -> asyncio.Future[HttpResponse]:
        """Send a request; the future is its reply or a TransportError.

        `bodiless` says that the reply has no body whatever its head claims (HEAD).
        """
        reply = self._reply = self._loop.create_future()
        self._bodiless = bodiless
        self._in_body = self.heard = False
        self._unproductive = 0
        self._timeout = timeout
        self._deadline = self._loop.time() + timeout
        if self._timer is None:
            self._timer = self._loop.call_later(timeout, self._check_deadline)
        if len(body) <= _COPY_LIMIT:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return reply

    def abort(self) -> None:
        """Cut the connection, whatever it is doing."""
        self.reusable = False
        self._transport.abort()

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server took the connection."""
        self._transport = transport  # type: ignore[assignment]  # TCP and TLS give a Transport
        self.reusable = True

    def data_received(self, data: bytes) -> None:
        """Parse a piece of reply; bytes that nobody asked for end the connection."""
        if self._reply is None or self._reply.done():
            self.abort()
            return
        self.heard = True
        try:
            self._feed(data)
        except BadMessage as error:
            # What is too long will be so again; the rest may be the weather.
            lasting = isinstance(error, BodyTooLarge) and not isinstance(error, TooMuchHeld)
            self._fail(*_failure_of(error), transient=not lasting)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: the reply is complete only if this was to be its end."""
        self.reusable = False
        if self._timer is not None:
            self._timer.cancel()
        if self._reply is None or self._reply.done():
            self._let_go()
            return
        if exc is None and self._in_body and self._ends_with_connection:
            self._complete()
        else:
            when = "in the middle of its reply" if self.heard else "without a reply"
            self._fail("reset", f"closed the connection {when}{f' ({exc})' if exc else ''}")

    # The parser's side.

    def on_message_begin(self) -> None:
        """A reply begins; after a complete one, nobody asked for it."""
        if self._reply is None or self._reply.done():
            raise BadMessage("sent more than the reply to the request")
        self._clear()

    def on_headers_complete(self) -> None:
        """The head is here."""
        status = self._parser.get_status_code()
        if status < 200:
            return  # interim; a flood of these counts as one endless head
        length = find_field(self._fields, b"content-length")
        self._expect_body(None if self._bodiless else length)
        coding = find_field(self._fields, b"content-encoding")
        if coding and coding.strip().lower() != b"identity":
            raise BadMessage(f"sent a body encoded as {coding[:40]!r}, which was not asked for")
        self._in_body = True
        self._ends_with_connection = (
            length is None and find_field(self._fields, b"transfer-encoding") is None
        )
        if self._bodiless:
            # The parser cannot be told that no body follows, so it is of no more use.
            self._complete()

    def on_message_complete(self) -> None:
        """A reply is complete, unless it was an interim one."""
        if self._in_body and self._reply is not None and not self._reply.done():
            self.reusable = self.reusable and self._parser.should_keep_alive()
            self._complete(reusable=self.reusable)

    # Ends of an exchange.

    def _complete(self, *, reusable: bool = False) -> None:
        self.reusable = reusable
        body = self._body if isinstance(self._body, bytes) else bytes(self._body)
        self._let_go()
        if self._reply is not None and not self._reply.done():
            response = HttpResponse(self._parser.get_status_code(), self._fields, body)
            self._reply.set_result(response)

    def _fail(self, kind: FailureKind, what: str, *, transient: bool = True) -> None:
        if self._reply is not None and not self._reply.done():
            error = TransportError(kind, f"{self._name} {what}", transient=transient)
            self._reply.set_exception(error)
        self._clear()
        self.abort()

    def _check_deadline(self) -> None:
        """One timer serves all exchanges of the connection: it looks again when one moved on."""
        self._timer = None
        if self._reply is None or self._reply.done():
            return
        left = self._deadline - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_deadline)
        else:
            self._fail("timeout", f"sent no complete reply within {self._timeout:g} s")


def _failure_of(error: BadMessage) -> tuple[FailureKind, str]:
    if isinstance(error, BodyTooLarge):
        return "too_large", f"sends {error}"
    if isinstance(error, HeadTooLarge):
        return "too_large", f"sends {error}"
    return "protocol", f"does not answer in HTTP/1.1: {error}"
