"""The client against servers that hang up, lie, drip, flood and redirect."""

from __future__ import annotations

import asyncio

import pytest

from evalhpc.http.client import HttpClient
from evalhpc.http.errors import TransportError
from evalhpc.http.messages import HttpReply, HttpRequest
from tests.http_peers import (
    OK,
    Run,
    echo,
    failure,
    local,
    on_both_loops,
    read_request,
    scripted,
    serving,
)

pytestmark = on_both_loops


def test_a_connection_is_kept_and_used_again(run: Run[None]) -> None:
    """Requests one after the other need one connection."""

    async def main() -> None:
        lines: list[list[str]] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            mine: list[str] = []
            lines.append(mine)
            while True:
                mine.append(await read_request(reader))
                writer.write(OK)

        async with scripted(talk) as port, local(port) as client:
            for _ in range(5):
                await client.request("GET", "/x")
        assert lines == [["GET /v1/x HTTP/1.1"] * 5]

    run(main())


def test_a_kept_connection_that_died_is_replaced(run: Run[None]) -> None:
    """A request that meets a connection closed meanwhile is sent again on a fresh one, unseen."""

    async def main() -> None:
        served = 0

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            await read_request(reader)
            writer.write(OK)
            served += 1
            await read_request(reader)  # then closes without a byte of reply

        async with scripted(talk) as port, local(port) as client:
            for _ in range(3):
                assert (await client.request("GET", "/x")).body == b"ok"
        assert served == 3

    run(main())


def test_a_fresh_connection_that_dies_is_a_failure(run: Run[None]) -> None:
    """A request is sent once to a server that hangs up on it: the caller decides on a retry."""

    async def main() -> None:
        lines: list[str] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            lines.append(await read_request(reader))

        async with scripted(talk) as port:
            assert await failure(port) == "reset"
        assert len(lines) == 1

    run(main())


def test_a_reply_cut_short_is_not_retried(run: Run[None]) -> None:
    """Once a byte of the reply came, the request was seen: no second one is sent."""

    async def main() -> None:
        requests = 0

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal requests
            for answer in (OK, OK[:-1]):
                await read_request(reader)
                requests += 1
                writer.write(answer)

        async with scripted(talk) as port, local(port) as client:
            await client.request("GET", "/x")
            with pytest.raises(TransportError) as caught:
                await client.request("GET", "/x")
        assert (caught.value.kind, requests) == ("reset", 2)

    run(main())


def test_refused_connections_say_so(run: Run[None]) -> None:
    """Nobody listening is told apart from other failures, for a name with two addresses too."""

    async def main() -> None:
        async with scripted(lambda reader, writer: asyncio.sleep(0)) as port:
            pass
        assert await failure(port) == "refused"
        async with HttpClient(f"http://localhost:{port}") as client:
            with pytest.raises(TransportError, match="cannot connect to http://localhost") as error:
                await client.request("GET", "/")
        assert error.value.kind == "refused"

    run(main())


@pytest.mark.parametrize(
    ("hostile", "kind"),
    [
        ([b"220 smtp.example ESMTP\r\n"], "protocol"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"], "too_large"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 40], "too_large"),
        ([b"HTTP/1.1 200 OK\r\nx: ", *[b"x" * 4096] * 40], "too_large"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 40, "too_large"),
    ],
    ids=["garbage", "length", "body", "head", "interim"],
)
def test_hostile_replies_end_the_request(run: Run[None], hostile: list[bytes], kind: str) -> None:
    """Garbage and endless replies fail within their limits instead of filling memory."""

    async def main() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            for piece in hostile:
                writer.write(piece)
                await writer.drain()
            await reader.read()

        async with scripted(talk) as port:
            # A body that is too long will be so again; the rest may be the weather.
            lasting = kind == "too_large" and b"100 " not in hostile[0] and b"x: " not in hostile[0]
            assert await failure(port, max_reply=1_000_000, transient=not lasting) == kind

    run(main())


@pytest.mark.parametrize("drip", [b"", b"x"], ids=["silent", "dripping"])
def test_a_server_that_never_ends_meets_the_time_limit(run: Run[None], drip: bytes) -> None:
    """Silence and a slow drip both end when the request's time is up."""

    async def main() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            if drip:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            while not reader.at_eof():
                writer.write(drip)
                await asyncio.sleep(0.02)

        async with scripted(talk) as port:
            assert await failure(port, timeout=0.3) == "timeout"

    run(main())


def test_a_cancelled_request_closes_its_connection(run: Run[None]) -> None:
    """What is cancelled leaves no reply behind for the next request, and frees its slot."""

    async def main() -> None:
        asked, hung_up = asyncio.Event(), asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if "/slow" not in await read_request(reader):
                writer.write(OK)
                return
            asked.set()
            assert await reader.read() == b""
            hung_up.set()

        async with scripted(talk) as port, local(port, connections=1) as client:
            slow = asyncio.ensure_future(client.request("GET", "/slow"))
            await asked.wait()
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert (await client.request("GET", "/fast")).body == b"ok"
            await hung_up.wait()

    run(main())


def test_a_redirect_is_followed_and_remembered(run: Run[None]) -> None:
    """A trailing slash that the server wants costs one extra request, the first time only."""

    async def main() -> None:
        seen: list[str] = []

        def handler(request: HttpRequest) -> HttpReply:
            seen.append(request.target)
            if request.path.endswith("/"):
                return HttpReply(200, request.body)
            host = request.header(b"host")
            moved = f"http://{host}{request.path}/"
            return HttpReply(307, headers=(("location", moved),))

        async with serving(handler) as port, local(port) as client:
            for body in (b"1", b"2", b"3"):
                assert (await client.request("POST", "/completions", body)).body == body
        assert seen == ["/v1/completions"] + ["/v1/completions/"] * 3

    run(main())


def test_redirects_elsewhere_or_in_circles_are_not_followed(run: Run[None]) -> None:
    """A redirect to another origin, or a second one, is handed to the caller as it is."""

    async def main() -> None:
        seen: list[str] = []

        def handler(request: HttpRequest) -> HttpReply:
            seen.append(request.target)
            moved = {"/v1/out": "http://127.0.0.1:1/", "/v1/a": "/v1/b"}.get(request.path, "/v1/a")
            return HttpReply(308, headers=(("location", moved),))

        async with serving(handler) as port, local(port, token="secret") as client:
            assert (await client.request("GET", "/out")).status == 308
            assert (await client.request("GET", "/a")).status == 308
        assert seen == ["/v1/out", "/v1/a", "/v1/b"]

    run(main())


def test_bodies_that_end_with_the_connection(run: Run[None]) -> None:
    """An HTTP/1.0 style reply is read to its end; interim replies before it are skipped."""

    async def main() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.0 200 OK\r\n\r\nhel")
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(b"lo")

        async with scripted(talk) as port, local(port) as client:
            for _ in range(2):
                assert (await client.request("GET", "/x")).body == b"hello"

    run(main())


def test_head_and_get_share_a_client(run: Run[None]) -> None:
    """HEAD gets a head; the next request is not confused by the body that did not come."""

    async def main() -> None:
        async with serving(echo) as port, local(port) as client:
            response = await client.request("HEAD", "/x")
            assert (response.status, response.body) == (200, b"")
            assert response.header(b"content-length") == "11"
            assert (await client.request("GET", "/x")).body == b"GET /v1/x "

    run(main())
