"""An HTTP/1.1 client for one server: a pool of kept connections, made for many requests."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Iterable
from types import TracebackType
from typing import TypeAlias

from evalhpc.core.masking import SHORTEST_IN_DATA, Mask
from evalhpc.http.client_connection import ClientConnection
from evalhpc.http.descriptors import raise_descriptor_limit
from evalhpc.http.errors import TransportError
from evalhpc.http.heads import field_line, request_start
from evalhpc.http.incoming import Held
from evalhpc.http.messages import JSON, HttpResponse
from evalhpc.http.origin import Origin, RedirectMemory, tls_context

_REDIRECTS = frozenset({307, 308})
#: Methods whose empty body is left unsaid.
_BARE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class HttpClient:
    """Requests to one base URL over at most `connections` connections at once.

    Waiting requests are served in order; `timeout` (seconds) counts from when a request has its
    connection. A status is never an error here: only a reply that did not come is, as a
    TransportError. Use within one event loop; `close` at the end, or `async with`.
    A body has at most `max_reply` bytes, all that are under way together `max_held`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        connections: int = 64,
        timeout: float = 600.0,
        connect_timeout: float = 30.0,
        max_reply: int = 256 * 1024**2,
        max_held: int = 1024**3,
        tls_verify: bool = True,
    ) -> None:
        """Raises UsageError for a base URL, ValueError for a header that cannot be sent."""
        self._origin = Origin.parse(base_url)
        self._name = f"{self._origin.scheme}://{self._origin.authority}"
        self._tls = tls_context(tls_verify) if self._origin.scheme == "https" else None
        fields = [("host", self._origin.authority), ("accept-encoding", "identity"), *headers]
        if token is not None:
            fields.append(("authorization", f"Bearer {token}"))
        self._mask = Mask([token or ""], shortest=SHORTEST_IN_DATA)
        self._fields = b"".join(field_line(name, value) for name, value in fields)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._max_reply = max_reply
        self._held = Held(max_held)
        self._redirects = RedirectMemory()
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[ClientConnection] = []
        self._closed = False
        raise_descriptor_limit()

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        """One exchange; `target` is path and query below the base URL. Raises TransportError.

        A 307 or 308 to the same origin is followed once, and its new path used from then on.
        Our token, where the server sends it back, is masked: replies are kept and shown.
        """
        response = await self._followed(method, target, body, content_type)
        if self._mask and self._mask.found_in(response.body):
            response.body = self._mask.bytes(response.body)
        if self._mask and self._mask.found_in(response.content_type.encode("latin-1")):
            response.headers = [(n, self._mask.bytes(v)) for n, v in response.headers]
        return response

    async def _followed(
        self, method: str, target: str, body: bytes, content_type: str
    ) -> HttpResponse:
        target = self._redirects.apply(self._origin.prefix + target)
        response = await self._exchange(method, target, body, content_type)
        if response.status not in _REDIRECTS:
            return response
        location = response.header(b"location") or target
        moved = self._origin.same_origin_target(target, location)
        if moved is None or moved == target:
            return response
        response = await self._exchange(method, moved, body, content_type)
        if response.status not in _REDIRECTS:
            self._redirects.learn(target, moved)
        return response

    async def close(self) -> None:
        """Close idle connections; those in use close with their exchange."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()
        await asyncio.sleep(0)  # lets the loop take the transports down

    async def _exchange(
        self, method: str, target: str, body: bytes, content_type: str
    ) -> HttpResponse:
        head = self._head(method, target, body, content_type)
        bodiless = method == "HEAD"
        async with self._slots:
            connection = self._idle_connection()
            if connection is not None:
                try:
                    return await self._use(connection, head, body, bodiless)
                except TransportError as error:
                    # The server closed a kept connection as we wrote: it saw no request.
                    if error.kind != "reset" or connection.heard:
                        raise
            connection = await self._connect()
            return await self._use(connection, head, body, bodiless)

    def _head(self, method: str, target: str, body: bytes, content_type: str) -> bytes:
        if not body and method in _BARE_METHODS:
            return request_start(method, target, "") + self._fields + b"\r\n"
        start = request_start(method, target, content_type)
        return b"%b%bcontent-length: %d\r\n\r\n" % (start, self._fields, len(body))

    def _idle_connection(self) -> ClientConnection | None:
        """The connection used last: the least likely to have been closed meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _use(
        self, connection: ClientConnection, head: bytes, body: bytes, bodiless: bool
    ) -> HttpResponse:
        try:
            response = await connection.exchange(head, body, self._timeout, bodiless=bodiless)
        except BaseException:  # a cancelled request leaves a reply under way: unusable
            connection.abort()
            raise
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    async def _connect(self) -> ClientConnection:
        """A fresh connection; raises TransportError."""
        origin, loop = self._origin, asyncio.get_running_loop()
        opening = loop.create_task(
            loop.create_connection(
                lambda: ClientConnection(loop, self._name, self._max_reply, self._held),
                origin.host, origin.port, ssl=self._tls,
            )
        )  # fmt: skip
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation, or the connection.
            done, _ = await asyncio.wait({opening}, timeout=self._connect_timeout)
        except asyncio.CancelledError:
            _abandon(opening)
            raise
        if not done:
            _abandon(opening)
            within = f"within {self._connect_timeout:g} s"
            raise TransportError("timeout", f"{self._name} took no connection {within}")
        try:
            return opening.result()[1]
        except OSError as error:
            raise self._connect_failure(error) from error

    def _connect_failure(self, error: OSError) -> TransportError:
        what = f"cannot connect to {self._name}: {error.strerror or error}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return TransportError("tls", what, transient=False)
        if isinstance(error, ssl.SSLError):
            return TransportError("tls", what)
        # A name with several addresses fails with one OSError that quotes the others.
        if error.errno == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in str(error):
            return TransportError("refused", what)
        if isinstance(error, ConnectionError):
            return TransportError("reset", what)
        return TransportError("timeout" if isinstance(error, TimeoutError) else "unreachable", what)


Opening: TypeAlias = "asyncio.Task[tuple[asyncio.Transport, ClientConnection]]"


def _abandon(opening: Opening) -> None:
    """Give up a connection that is still opening, or opened as we gave up."""
    opening.cancel()
    opening.add_done_callback(_cut)


def _cut(opening: Opening) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].abort()
