"""An HTTP/1.1 server for one handler: the gateway's ear, and the test servers'."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from evalhpc.errors import EndpointError
from evalhpc.http.descriptors import raise_descriptor_limit
from evalhpc.http.messages import HttpRequest
from evalhpc.http.server_connection import ServerConnection
from evalhpc.http.service import MOST_STRANGERS, Handler, Service

_LOG = logging.getLogger(__name__)
#: Connections that the kernel may hold for us; capped by net.core.somaxconn.
_BACKLOG = 4096
#: Open files that a harness with many connections may need.
_FEW_FILES = 1024


def log_failure(request: HttpRequest, error: BaseException) -> None:
    """The default report of a handler that raised: its traceback, to the log."""
    _LOG.error("answering %s %s failed", request.method, request.path, exc_info=error)


class HttpServer:
    """Answers each request with what `handler` returns or, if that is awaitable, resolves to.

    A handler that returns its HttpReply at once costs no task; an awaited one is cancelled when
    its client goes away (shield what must outlive that). One that raises answers 500, and the
    error goes to `report`. A client that takes minutes for the head of a request, or a quarter of
    an hour for nothing at all, loses its connection.
    """

    def __init__(
        self,
        *,
        max_body: int = 256 * 1024**2,
        report: Callable[[HttpRequest, BaseException], None] = log_failure,
    ) -> None:
        self._max_body = max_body
        self._report = report
        self._listener: asyncio.Server | None = None
        self._service: Service | None = None

    async def start(
        self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
    ) -> int:
        """Listen and return the bound port; raises EndpointError.

        With a `token`, requests must carry it as `Authorization: Bearer`, `api-key` or
        `x-api-key`, else they get 401.
        """
        if self._listener is not None:
            raise RuntimeError("this server listens already")
        files = raise_descriptor_limit()
        if files < _FEW_FILES:
            _LOG.warning("the hard limit of %d open files (ulimit -Hn): connections beyond it are "
                         "closed without an answer", files)  # fmt: skip
        loop = asyncio.get_running_loop()
        secret = None if token is None else token.encode()
        service = Service(
            handler, loop, secret, self._max_body, self._report,
            min(MOST_STRANGERS, max(1, files // 2)),
        )  # fmt: skip
        try:
            self._listener = await loop.create_server(
                lambda: ServerConnection(service), host, port, backlog=_BACKLOG
            )
        except OSError as error:
            raise EndpointError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                cause="another process has the port, or the address is not this machine's",
                hint="choose another port, or 0 for any free one",
            ) from error
        self._service = service
        service.watch()
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self, grace: float = 5.0) -> None:
        """Stop listening, let answers in progress finish for `grace` seconds, then cut."""
        listener, service = self._listener, self._service
        if listener is None or service is None:
            return
        self._listener = self._service = None
        service.closing = True
        service.unwatch()
        listener.close()
        for connection in tuple(service.connections):
            connection.wind_down()
        await _emptied(service, grace)
        for connection in tuple(service.connections):
            connection.abort()
        await _emptied(service, grace)
        await listener.wait_closed()


async def _emptied(service: Service, seconds: float) -> None:
    """Wait until no connection is left, at most `seconds`."""
    if not service.connections:
        return
    service.emptied.clear()
    try:
        await asyncio.wait_for(service.emptied.wait(), seconds)
    except asyncio.TimeoutError:
        return
