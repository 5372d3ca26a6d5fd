"""Traffic that no well-behaved harness sends: floods, huge bodies, bodies that are no JSON."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from evalhpc.core.identity import Answer, Request
from evalhpc.core.stubs import MARKER
from evalhpc.gateway.app import PassGateway
from evalhpc.http import server_connection, service
from evalhpc.http.client import HttpClient
from evalhpc.http.messages import HttpReply, HttpRequest
from evalhpc.http.server import HttpServer
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.requests_file import RequestWriter, read_requests
from evalhpc.storage.store import Store, merge_journals
from evalhpc.worker.asking import Asker, RetryPolicy

RUN = "ab" * 32
#: Opens so many connections at once, asks on each, and counts the answers; limits come first.
_FLOOD = """
import asyncio, resource, sys
connections, limit = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limit), limit))
import uvloop
from evalhpc.gateway.app import PassGateway
from evalhpc.http.server import HttpServer

async def ask(port, number, together):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with together:
        together.count += 1
        together.notify_all()
        await together.wait_for(lambda: together.count == connections)
    body = b'{"prompt": "%d"}' % number
    writer.write(b"POST /v1/completions HTTP/1.1\\r\\nhost: x\\r\\nauthorization: Bearer t\\r\\n"
                 b"connection: close\\r\\ncontent-length: %d\\r\\n\\r\\n%b" % (len(body), body))
    reply = await reader.read()
    writer.close()
    return reply.split(b"\\r\\n")[0]

async def main():
    misses = []
    gateway = PassGateway("b", "model", "m", lambda key: None, misses.append)
    server = HttpServer()
    port = await server.start(gateway, token="t")
    together = asyncio.Condition()
    together.count = 0
    lines = await asyncio.gather(*(ask(port, n, together) for n in range(connections)))
    await server.close()
    print(len(misses), *set(lines))

uvloop.run(main())
"""


def test_two_thousand_connections_at_once() -> None:
    """Each is answered and planned, though the process begins with room for 256 files."""
    done = subprocess.run(
        [sys.executable, "-c", _FLOOD, "2000", "5000"],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "2000 b'HTTP/1.1 200 OK'", done.stderr


#: A gateway with room for so few files; ends with its stdin, and prints its port and its misses.
_SMALL = """
import asyncio, logging, resource, sys
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import uvloop
from evalhpc.gateway.app import PassGateway
from evalhpc.http.server import HttpServer

async def main():
    misses = []
    server = HttpServer()
    gateway = PassGateway("b", "model", "m", lambda key: None, misses.append)
    print(await server.start(gateway, token="t"), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.close()
    print(len(misses))

uvloop.run(main())
"""


async def _ask_all(port: int, connections: int) -> list[bytes]:
    """The first line of what each of so many connections gets; all are open before one asks."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    lines = []
    for number, (reader, writer) in enumerate(opened):
        body = b'{"prompt": "%d"}' % number
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\napi-key: t\r\nconnection: close\r\n"
        writer.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        try:
            lines.append((await reader.read()).split(b"\r\n")[0])
        except ConnectionError:
            lines.append(b"")
        writer.close()
    return lines


def test_connections_beyond_a_low_hard_limit_are_closed_unanswered() -> None:
    """The gateway says so, answers the others and goes on; what it closed, it has not planned."""
    small = subprocess.Popen(
        [sys.executable, "-c", _SMALL], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert small.stdout is not None
    port = int(small.stdout.readline())
    answered = [asyncio.run(_ask_all(port, connections)).count(b"HTTP/1.1 200 OK")
                for connections in (200, 10)]  # fmt: skip
    out, err = small.communicate("", timeout=300)
    assert 0 < answered[0] < 200
    assert answered[1] == 10
    assert int(out) == sum(answered)
    assert "64 open files" in err


async def _exchange(gateway: PassGateway, body: bytes) -> tuple[int, bytes]:
    """What a harness gets for this body, over a socket."""
    server = HttpServer()
    port = await server.start(gateway, token="t")
    try:
        async with HttpClient(f"http://127.0.0.1:{port}/v1", token="t") as client:
            reply = await client.request("POST", "/completions", body)
            return reply.status, reply.body
    finally:
        await server.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "' + b"a" * (50 << 20) + b'"}',
        b"not JSON",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"prompt": "a", "prompt": "b"}',
        b"",
    ],
    ids=["50 MB", "text", "bytes", "deep", "key twice", "empty"],
)
def test_any_body_is_planned_answered_and_replayed(tmp_path: Path, body: bytes) -> None:
    """A stub at first; then the worker sends the same bytes, and the answer comes back."""
    plan, journal, out = tmp_path / "plan", tmp_path / "journal", tmp_path / "store.h5"
    with RequestWriter(plan, RUN) as misses:
        gateway = PassGateway("b", "model", "m", lambda key: None, misses.append)
        status, stub = asyncio.run(_exchange(gateway, body))
    assert status == 200
    assert MARKER.encode() in stub
    (request,) = read_requests(plan, RUN)
    assert request.body == body
    answer = asyncio.run(_answer(request, body))
    with JournalWriter.create(journal, RUN) as writer:
        writer.append(request.key, answer)
    merge_journals([journal], out, RUN)
    with Store.open(out, RUN) as store:
        gateway = PassGateway("b", "model", "m", store.get, lambda request: pytest.fail("a miss"))
        assert asyncio.run(_exchange(gateway, body)) == (200, answer.body)
        assert gateway.used == {request.key}


_HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\napi-key: %b\r\n"


async def _until_cut(port: int, first: bytes, each: bytes) -> bytes:
    """What a client gets that sends `first`, then `each` again and again, until it is cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(_read_all(reader))
    writer.write(first)
    while not answer.done():
        writer.write(each)
        await asyncio.sleep(0.01)
    writer.close()
    return await answer


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    ("first", "each"),
    [
        (b"", b""),
        (b"POST /v1/completions HTTP/1.1\r\nx: ", b"v"),
        (_HEAD % b"wrong" + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (_HEAD % b"t" + b"content-length: 99\r\n\r\nabc", b""),
        (_HEAD % b"t" + b"content-length: 3\r\n\r\nabc", b""),
    ],
    ids=["no word", "slow head", "denied without end", "half a body", "idle"],
)
def test_clients_that_hold_a_connection_for_nothing_lose_it(
    monkeypatch: pytest.MonkeyPatch, first: bytes, each: bytes
) -> None:
    """In time, which is short here; a client that asks now and then is served all along."""
    monkeypatch.setattr(service, "LOOK", 0.05)
    monkeypatch.setattr(server_connection, "QUIET_LOOKS", 20)
    monkeypatch.setattr(server_connection, "SLOW_LOOKS", 4)

    async def main() -> tuple[bytes, set[int]]:
        server = HttpServer()
        gateway = PassGateway("b", "model", "m", lambda key: None, lambda request: None)
        port = await server.start(gateway, token="t")
        held = asyncio.create_task(_until_cut(port, first, each))
        statuses = set()
        async with HttpClient(f"http://127.0.0.1:{port}/v1", token="t", connections=1) as client:
            while not held.done():
                statuses.add((await client.request("POST", "/completions", b"{}")).status)
                await asyncio.sleep(0.02)
        await server.close()
        return await held, statuses

    got, statuses = asyncio.run(asyncio.wait_for(main(), 60))
    assert statuses == {200}
    assert got.startswith(b"HTTP/1.1 200 ") == first.endswith(b"3\r\n\r\nabc")


async def _answer(request: Request, body: bytes) -> Answer:
    """What a worker gets from a server that checks that it is sent these very bytes."""

    def handler(asked: HttpRequest) -> HttpReply:
        same = asked.body == body
        return HttpReply(200 if same else 500, b'{"choices": [{}]}', "application/json")

    server = HttpServer()
    port = await server.start(handler)
    try:
        async with HttpClient(f"http://127.0.0.1:{port}/v1") as client:
            return await Asker(client, 1, RetryPolicy(retries=0)).ask(request)
    finally:
        await server.close()
