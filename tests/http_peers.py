"""Real peers for HTTP tests: both event loops, our server, and servers that follow a script."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import uvloop

from evalhpc.http.client import HttpClient
from evalhpc.http.errors import TransportError
from evalhpc.http.messages import HttpReply, HttpRequest
from evalhpc.http.server import HttpServer
from evalhpc.http.service import Handler

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def run_on(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` within a minute; an error that the loop had to report fails the test."""
    lost: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: lost.append(context))
    try:
        result = loop.run_until_complete(asyncio.wait_for(main, 60))
        gc.collect()  # a future whose error nobody took says so when it is collected
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    assert lost == []
    return result


def run_asyncio(main: Coroutine[Any, Any, T]) -> T:
    return run_on(asyncio.new_event_loop(), main)


def run_uvloop(main: Coroutine[Any, Any, T]) -> T:
    return run_on(uvloop.new_event_loop(), main)


#: Gives every test of a module an argument `run`.
on_both_loops = pytest.mark.parametrize("run", [run_asyncio, run_uvloop], ids=["asyncio", "uvloop"])


@asynccontextmanager
async def serving(
    handler: Handler, *, token: str | None = None, **options: Any
) -> AsyncIterator[int]:
    """Our server with this handler; the value is its port."""
    server = HttpServer(**options)
    port = await server.start(handler, token=token)
    try:
        yield port
    finally:
        await server.close(grace=2.0)


@asynccontextmanager
async def scripted(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that does what `talk` says with each connection, then closes it."""
    talks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> str:
    """The request line of the next request, which has no body."""
    return (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode()


async def send_raw(port: int, data: bytes) -> bytes:
    """All that the server on `port` answers to these bytes, up to its end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


def echo(request: HttpRequest) -> HttpReply:
    return HttpReply(200, f"{request.method} {request.target} ".encode() + request.body)


def local(port: int, **options: Any) -> HttpClient:
    return HttpClient(f"http://127.0.0.1:{port}/v1", **options)


async def failure(port: int, *, transient: bool = True, **options: Any) -> str:
    """The kind of failure that a GET ends with."""
    async with local(port, **options) as client:
        with pytest.raises(TransportError) as caught:
            await client.request("GET", "/x")
    assert caught.value.transient == transient
    return caught.value.kind
