"""One client's connection to our server: requests in, answers out in the same order."""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import Awaitable

import httptools

from evalhpc.http.heads import BODILESS, origin_form, reply_start
from evalhpc.http.incoming import BadMessage, MessageReader, UpgradeAsked
from evalhpc.http.messages import HttpReply, HttpRequest, error_reply
from evalhpc.http.service import (
    QUIET_LOOKS,
    SLOW_LOOKS,
    Asked,
    Service,
    offered_token,
    refusal_of,
)

#: Above this size, head and body go out as two buffers instead of one copy.
_COPY_LIMIT = 64 * 1024
#: Seconds for a refused peer to take its answer before the connection is cut.
_LINGER = 2.0


class ServerConnection(MessageReader, asyncio.Protocol):
    """Handles one request at a time; pipelined ones wait, with reading paused behind them."""

    _transport: asyncio.Transport

    def __init__(self, service: Service) -> None:
        super().__init__(service.max_body, service.held)
        self._service = service
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self._url = b""
        self._named = False
        self._receiving = False  # part of a request is here
        self._unknown = True  # nobody who may ask has asked, or is asking now
        self._quiet = self._slow = 0  # looks without a sign of the client, or while it is unknown
        self._refused: HttpReply | None = None  # the answer to the request being received
        self._continue_due = False
        self._waiting: deque[Asked] = deque()
        self._task: asyncio.Task[None] | None = None  # answers the current request
        self._last: HttpReply | None = None  # goes out when all before it are answered
        self._ended = False  # nothing more is read or answered
        self._linger: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._writable: asyncio.Future[None] | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = transport  # type: ignore[assignment]  # TCP servers give a Transport
        self._service.meet(self)
        if self._service.closing:  # it came between the last accept and the close
            self._end()

    def connection_lost(self, _: Exception | None) -> None:
        """The client went: whatever still works on its answer is cancelled."""
        self._ended = True
        self._waiting.clear()
        self._clear()
        if self._task is not None:
            self._task.cancel()
        if self._linger is not None:
            self._linger.cancel()
        self._service.part(self)

    def pause_writing(self) -> None:
        """The client takes its answers too slowly: start no further one."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """The client caught up."""
        self._writing_paused = False
        self._quiet = 0
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Parse what came, then answer what is complete."""
        if self._ended or self._last is not None:
            return
        self._quiet = 0
        try:
            self._feed(data)
        except BadMessage as error:
            self._last = refusal_of(error)
        self._advance()

    def wind_down(self) -> None:
        """The server closes: end now if idle, else with the answer in progress."""
        if self._task is None and not self._waiting and not self._receiving:
            self._end()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def look(self) -> None:
        """Cut the connection if its client has been quiet, or slow to show itself, for too long."""
        if self._task is not None and not self._writing_paused:
            self._quiet = 0  # it waits for us
            return
        self._quiet += 1
        self._slow = self._slow + 1 if self._unknown else 0
        if self._quiet > QUIET_LOOKS or self._slow > SLOW_LOOKS:
            self.abort()

    # The parser's side.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._clear()
        self._url = b""
        self._refused = None
        self._receiving = self._unknown = True

    def on_url(self, piece: bytes) -> None:
        """A piece of the request target."""
        self._url += piece

    def on_headers_complete(self) -> None:
        """The head is here: refuse what can be refused before its body comes."""
        if self._parser.should_upgrade():
            raise UpgradeAsked  # the parser skips the body of such a request
        fields = dict(self._fields)
        service = self._service
        self._unknown = False
        self._expect_body(fields.get(b"content-length"))
        self._named = b"connection" in fields
        if service.token is not None and not hmac.compare_digest(
            offered_token(fields), service.token
        ):
            self._unknown = True
            self._refused = error_reply(401, "missing or wrong token", "authentication_error")
            self._refused.headers = (("www-authenticate", "Bearer"),)
        if fields.get(b"expect", b"").lower() == b"100-continue":
            if self._refused is None:
                self._continue_due = True
            else:
                self._last = self._refused  # the client holds its body back until we say
        if self._refused is None and service.strangers:
            service.strangers.pop(self, None)

    def on_body(self, data: bytes) -> None:
        """A piece of body; that of a refused request is dropped."""
        if self._refused is None:
            super().on_body(data)
        else:
            self._unproductive = 0

    def on_message_complete(self) -> None:
        """A request is complete: it waits for its turn."""
        self._unproductive = 0
        self._receiving = self._continue_due = False
        if self._last is not None:
            return
        parser = self._parser
        request = HttpRequest(
            parser.get_method().decode("ascii"),
            origin_form(self._url),
            self._fields,
            self._body if isinstance(self._body, bytes) else bytes(self._body),
        )
        self._let_go()
        old = parser.get_http_version() == "1.0"
        asked = Asked(request, self._refused, parser.should_keep_alive(), self._named, old)
        self._waiting.append(asked)

    # Answering.

    def _advance(self) -> None:
        """Answer waiting requests as long as nothing holds us up; then say what is due."""
        waiting = self._waiting
        while waiting and self._task is None and not self._writing_paused and not self._ended:
            self._answer(waiting.popleft())
        if self._ended:
            return
        if bool(waiting) != self._reading_paused:
            self._reading_paused = bool(waiting)
            if waiting:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
        if waiting or self._task is not None:
            return
        if self._last is not None:
            self._refuse(self._last)
        elif self._continue_due:
            self._continue_due = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self, asked: Asked) -> None:
        reply: HttpReply | Awaitable[HttpReply]
        try:
            reply = asked.refusal or self._service.handler(asked.request)
            if isinstance(reply, HttpReply) and reply.stream is None:
                self._send(reply, asked)
                return
        except Exception as error:
            self._send(self._failed(asked.request, error), asked)
            return
        self._task = self._service.loop.create_task(self._answer_later(reply, asked))

    async def _answer_later(self, reply: HttpReply | Awaitable[HttpReply], asked: Asked) -> None:
        started = False
        try:
            final = reply if isinstance(reply, HttpReply) else await reply
            if final.stream is None:
                self._send(final, asked)
            else:
                started = True
                await self._send_stream(final, asked)
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        except Exception as error:
            failure = self._failed(asked.request, error)
            if started:
                self._transport.abort()  # a cut stream is the only sign left to give
            else:
                self._send(failure, asked)
        self._task = None
        self._advance()

    def _failed(self, request: HttpRequest, error: Exception) -> HttpReply:
        self._service.report(request, error)
        return error_reply(500, f"{type(error).__name__}: {error}", "server_error")

    def _start(self, reply: HttpReply, asked: Asked) -> tuple[bytes, bool]:
        """The reply's head but for its length, and whether the connection stays."""
        keep = asked.keep and not self._service.closing
        connection = ("keep-alive" if asked.named else "") if keep else "close"
        return reply_start(reply.status, reply.content_type, reply.headers, connection), keep

    def _send(self, reply: HttpReply, asked: Asked) -> None:
        head, keep = self._start(reply, asked)
        body = reply.body
        if reply.status in BODILESS:
            self._transport.write(head + b"\r\n")
        elif asked.request.method == "HEAD":
            self._transport.write(b"%bcontent-length: %d\r\n\r\n" % (head, len(body)))
        elif len(body) <= _COPY_LIMIT:
            self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        else:
            self._transport.writelines((b"%bcontent-length: %d\r\n\r\n" % (head, len(body)), body))
        if not keep:
            self._end()

    async def _send_stream(self, reply: HttpReply, asked: Asked) -> None:
        """Send pieces as they come: chunked, or up to the end of the connection for HTTP/1.0."""
        head, keep = self._start(reply, asked._replace(keep=asked.keep and not asked.old))
        self._transport.write(
            head + (b"\r\n" if asked.old else b"transfer-encoding: chunked\r\n\r\n")
        )
        if asked.request.method != "HEAD" and reply.stream is not None:
            async for piece in reply.stream:
                if piece:
                    framed = piece if asked.old else b"%x\r\n%b\r\n" % (len(piece), piece)
                    self._transport.write(framed)
                    await self._drained()
            if not asked.old:
                self._transport.write(b"0\r\n\r\n")
        if not keep:
            self._end()

    async def _drained(self) -> None:
        while self._writing_paused:
            self._writable = self._service.loop.create_future()
            await self._writable

    # Ending.

    def _refuse(self, reply: HttpReply) -> None:
        """Send the last reply; read on a little, or a reset could overtake it."""
        asked = Asked(HttpRequest("", ""), None, False, False, False)
        self._send(reply, asked)

    def _end(self) -> None:
        """Close once everything written is out."""
        self._ended = True
        self._waiting.clear()
        if self._last is None and not self._receiving:
            self._transport.close()
            return
        # Unread input at a close turns into a reset, which could overtake our answer.
        if self._reading_paused:
            self._transport.resume_reading()
        self._transport.write_eof()
        self._cut_later()

    def _cut_later(self) -> None:
        self._linger = self._service.loop.call_later(_LINGER, self._cut)

    def _cut(self) -> None:
        if self._transport.get_write_buffer_size():
            self._cut_later()
        else:
            self._transport.abort()
