"""A model server that does its worst: the worker gives the request up, says why, and goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import zlib
from collections.abc import Awaitable, Callable

import pytest

from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import Unit
from evalhpc.deploy.readiness import probe_endpoint
from evalhpc.errors import EndpointError
from evalhpc.http.client import HttpClient
from evalhpc.worker.asking import RetryPolicy
from evalhpc.worker.loop import Failure, WorkCounts, Worker
from tests.http_peers import run_uvloop, scripted

Trick = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_GOOD = b'{"choices": [{"text": "fine", "finish_reason": "stop"}]}'
_MAX_REPLY = 1 << 20
#: MiB by which a trick may raise the peak of memory; each could send gigabytes.
_MOST_MEMORY = 64


def _reply(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, lines, len(body), body)


def _sends(*pieces: bytes, times: int = 1) -> Trick:
    """Sends these, the last one so many times (or until the client goes), and waits."""

    async def trick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (*pieces[:-1], *[pieces[-1]] * times):
            writer.write(piece)
            await writer.drain()
        await reader.read()

    return trick


def _closes(data: bytes) -> Trick:
    async def trick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    return trick


def _answers(data: bytes) -> Trick:
    """A complete reply, after which the connection goes on."""

    async def trick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return trick


async def _drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
_ZEROS = b'{"choices": [{"text": "' + b"0" * (32 << 20) + b'"}]}'
_ENDLESS = 1 << 14  # pieces of 64 KiB: a gigabyte
_JSON = b"content-type: application/json"

#: name → (what it does with a request, what the worker says of it)
TRICKS: dict[str, tuple[Trick, str]] = {
    "endless body": (_sends(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, times=_ENDLESS), "more than"),
    "endless chunks": (_sends(_CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", times=_ENDLESS),
                       "more than"),
    "10 GB promised": (_sends(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n"),
                       "10000000000 bytes"),
    "length of 2^64": (_sends(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n"),
                       "HTTP/1.1"),
    "slow drip": (_drips, "no complete reply within"),
    "silence": (_sends(b""), "no complete reply within"),
    "gzip bomb": (_answers(_reply(gzip.compress(_ZEROS), _JSON, b"content-encoding: gzip")),
                  "gzip"),
    "deflate bomb": (_answers(_reply(zlib.compress(_ZEROS), _JSON, b"content-encoding: deflate")),
                     "deflate"),
    "huge header": (_sends(b"HTTP/1.1 200 OK\r\nx: ", b"v" * 65536, times=_ENDLESS), "65536 bytes"),
    "huge content type": (_answers(_reply(_GOOD, b"content-type: " + b"x" * 60_000)), "HTTP 200"),
    "endless headers": (_sends(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 9999, times=999), "header"),
    "endless 1xx": (_sends(b"HTTP/1.1 102 Processing\r\n\r\n" * 2000, times=_ENDLESS), "bytes of"),
    "endless extension": (_sends(_CHUNKED + b"1;", b"e" * 65536, times=_ENDLESS), "bytes of"),
    "endless trailer": (_sends(_CHUNKED + b"0\r\nt: ", b"e" * 65536, times=_ENDLESS), "bytes of"),
    "redirect to itself": (_answers(_reply(b"", b"location: /v1/completions",
                                         status=b"307 Temporary Redirect")), "HTTP 307"),
    "redirect elsewhere": (_answers(_reply(b"", b"location: http://192.0.2.1/v1/completions",
                                         status=b"308 Permanent Redirect")), "HTTP 308"),
    "HTTP/0.9": (_closes(_GOOD), "HTTP/1.1"),
    "HTTP/2": (_sends(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"), "HTTP/1.1"),
    "closes at once": (_closes(b""), "without a reply"),
    "closes in its head": (_closes(b"HTTP/1.1 200 OK\r\ncontent-le"), "in the middle"),
    "closes in its body": (_closes(_reply(_GOOD)[:-9]), "in the middle"),
    "closes in a chunk": (_closes(_CHUNKED + b"ff\r\n" + _GOOD), "in the middle"),
    "two lengths": (_sends(b"HTTP/1.1 200 OK\r\ncontent-length: 56\r\ncontent-length: 5\r\n\r\n"),
                    "HTTP/1.1"),
    "no JSON": (_answers(_reply(b"<html>It works!</html>", b"content-type: text/html")),
                "It works!"),
    "not UTF-8": (_answers(_reply(b'{"choices": [{"text": "\xff\xfe"}]}', _JSON)), "HTTP 200"),
    "deep JSON": (_answers(_reply(b'{"choices": ' + b"[" * 500_000, _JSON)), "HTTP 200"),
    "deep choices": (_answers(_reply(b'{"choices": [{"a": ' + b"[" * 990 + b"]" * 990 + b"}, 5]}")),
                     "HTTP 200"),
    "NaN": (_answers(_reply(b'{"choices": [{"logprobs": {"token_logprobs": [NaN]}}]}')), "NaN"),
    "too few choices": (_answers(_reply(b'{"choices": []}', _JSON)), "HTTP 200"),
    "too many choices": (_answers(_reply(b'{"choices": [{}, {}, {}]}', _JSON)), "3 choices"),
    "choices of text": (_answers(_reply(b'{"choices": "abc"}', _JSON)), "HTTP 200"),
    "a stream": (_answers(_reply(b"data: {}\n\ndata: [DONE]\n\n",
                                 b"content-type: text/event-stream")), "a stream"),
    "endless stream": (_sends(_SSE, b"data: {}\n\n" * 6000, times=_ENDLESS), "more than"),
    "an error in a 200": (_answers(_reply(b'{"error": {"message": "\x1b]0;gotcha\x07"}}')),
                          "gotcha"),
    "status 999": (_answers(_reply(_GOOD, status=b"999 What")), "HTTP 999"),
    "a reply too many": (_answers(_reply(b"{}") + _reply(_GOOD)), "HTTP 200"),
    "huge counts": (_answers(_reply(b'{"choices": [{}], "usage": {"completion_tokens": 1e300}}')),
                    "1 choices"),
    "status 204": (_answers(b"HTTP/1.1 204 No Content\r\n\r\n"), "HTTP 204"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("endless body", "without end"),
        ("endless chunks", "without end"),
        ("gzip bomb", "encoded body"),
        ("deflate bomb", "encoded body"),
        ("huge header", "RemoteProtocolError"),
        ("endless headers", "RemoteProtocolError"),
        ("HTTP/0.9", "RemoteProtocolError|ReadError"),  # a reset may overtake what was sent
        ("closes in its body", "RemoteProtocolError|ReadError"),
        ("deep JSON", "not OpenAI-compatible"),
        ("deep choices", "not OpenAI-compatible"),
        ("redirect to itself", "redirect"),
    ],
)
def test_a_hostile_server_is_never_ready(name: str, reason: str) -> None:
    """Whoever asks whether it is ready learns why not, in little memory."""
    trick, _ = TRICKS[name]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            await reader.readuntil(b"\r\n\r\n")
            await trick(reader, writer)

    async def main() -> None:
        async with scripted(talk) as port:
            url = f"http://127.0.0.1:{port}/v1"
            await asyncio.to_thread(probe_endpoint, url, "m", None, timeout=30)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EndpointError, match=reason):
        run_uvloop(main())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < 2 * _MOST_MEMORY


def _every(piece: bytes) -> Trick:
    async def trick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)

    return trick


@pytest.mark.parametrize(
    "trick",
    [_drips, _every(b"HTTP/1.1 100 Continue\r\n\r\n"), _every(b"x")],
    ids=["body", "interim replies", "head"],
)
def test_a_reply_that_never_ends_does_not_hold_up_the_question_for_ever(trick: Trick) -> None:
    """However little comes at a time, and nothing but interim replies: the whole has its time."""

    async def main() -> None:
        async with scripted(trick) as port:
            url = f"http://127.0.0.1:{port}/v1"
            await asyncio.to_thread(probe_endpoint, url, "m", None, timeout=0.5)

    with pytest.raises(EndpointError, match=r"no whole reply within 0\.5 s"):
        run_uvloop(main())


class _Two:
    """One unit of two requests: the first meets the trick, the second an honest server."""

    def __init__(self) -> None:
        self.requests = [
            Request(bytes([n]) * 20, "b", "model", "POST", "/completions",
                    json.dumps({"prompt": f"{n}", "n": 2}).encode())
            for n in range(2)
        ]  # fmt: skip
        self.settled: list[int] = []
        self._taken = False

    async def take(self) -> tuple[Unit, list[Request]] | None:
        if self._taken:
            return None
        self._taken = True
        return Unit(id=0, start=0, end=1, count=2, benchmark="b"), self.requests

    async def settle(self, unit: Unit) -> None:
        self.settled.append(unit.id)


async def _work(trick: Trick, retries: int = 0) -> tuple[list[Failure], dict[bytes, Answer], int]:
    """(failures, answers, units settled) of a worker whose first request meets the trick."""
    honest = _reply(b'{"choices": [{"text": "a"}, {"text": "b"}]}', _JSON)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            if body["prompt"] == "0":
                await trick(reader, writer)
            else:
                writer.write(honest)

    counts, units, answers = WorkCounts(), _Two(), dict[bytes, Answer]()
    async with scripted(talk) as port:
        client = HttpClient(f"http://127.0.0.1:{port}/v1", timeout=2.0, max_reply=_MAX_REPLY)
        async with client:
            worker = Worker(
                client, units, answers.__setitem__, counts,
                concurrency=1, policy=RetryPolicy(retries, pause=0.0),
            )  # fmt: skip
            await worker.run()
    return counts.failures, answers, len(units.settled)


@pytest.mark.parametrize("name", ["endless body", "10 GB promised"])
def test_a_body_beyond_the_limit_is_not_asked_for_again(name: str) -> None:
    """Each try would be as long: the request has failed for good, and is not retried."""
    failures, answers, _ = run_uvloop(_work(TRICKS[name][0], retries=3))
    assert [failure.fault for failure in failures] == ["failed"]
    assert len(answers) == 1


@pytest.mark.parametrize("name", TRICKS)
def test_a_hostile_server_costs_one_request(name: str) -> None:
    """It is given up with its reason, in little memory; the next request gets its answer."""
    trick, reason = TRICKS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failures, answers, settled = run_uvloop(_work(trick))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert [failure.key for failure in failures] == [bytes(20)]
    assert reason in failures[0].reason
    assert failures[0].reason.isprintable()
    assert list(answers) == [b"\1" * 20]
    assert settled == 1
    assert grown < _MOST_MEMORY
