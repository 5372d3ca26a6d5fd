"""The client's side of a connection, fed by hand: every way a reply can come, or not."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.http.client_connection import ClientConnection
from evalhpc.http.errors import TransportError
from evalhpc.http.incoming import Held
from evalhpc.http.messages import HttpResponse
from tests.http_fakes import FakeLoop, FakeTransport, pieces

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nt: t\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
TO_THE_END = b"HTTP/1.0 200 OK\r\n\r\nhello"


class Exchange:
    """A connection with one request sent, and its future reply."""

    def __init__(self, *, max_reply: int = 1000, timeout: float = 10.0, head: bool = False) -> None:
        self.loop = FakeLoop()
        self.transport = FakeTransport()
        self.connection = ClientConnection(self.loop.as_loop(), "http://h", max_reply)
        self.connection.connection_made(self.transport)
        self.reply: asyncio.Future[HttpResponse] = self.connection.exchange(
            b"GET / HTTP/1.1\r\n\r\n", b"", timeout, bodiless=head
        )

    def get(self, *data: bytes) -> Exchange:
        for piece in data:
            self.connection.data_received(piece)
        return self

    def kind(self) -> str:
        """The kind of failure of this exchange, whose connection must be gone."""
        error = self.reply.exception()
        assert isinstance(error, TransportError)
        assert self.transport.aborted
        assert not self.connection.reusable
        return error.kind


@pytest.mark.parametrize("reply", [PLAIN, CHUNKED, INTERIM + PLAIN])
@given(cuts=st.lists(st.integers(0, 1000), max_size=20))
def test_replies_may_be_cut_anywhere(reply: bytes, cuts: list[int]) -> None:
    """A reply is the same however its bytes are cut, and leaves the connection usable."""
    exchange = Exchange().get(*pieces(reply, cuts))
    response = exchange.reply.result()
    assert (response.status, response.body) == (200, b"hello")
    assert exchange.connection.reusable


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_no_input_raises(data: bytes, cuts: list[int]) -> None:
    """Whatever a server sends, the exchange goes on, ends or fails; nothing else is raised."""
    exchange = Exchange().get(*pieces(data, cuts))
    exchange.connection.connection_lost(None)
    assert exchange.reply.done()
    exchange.reply.exception()


def test_a_body_may_end_with_the_connection() -> None:
    """Without a length, the end of the connection is the end of the body."""
    exchange = Exchange().get(TO_THE_END)
    assert not exchange.reply.done()
    exchange.connection.connection_lost(None)
    assert exchange.reply.result().body == b"hello"
    assert not exchange.connection.reusable


def test_a_reset_is_not_the_end_of_a_body() -> None:
    """A body that would end with the connection is incomplete if that was reset."""
    exchange = Exchange().get(TO_THE_END)
    exchange.connection.connection_lost(ConnectionResetError())
    assert exchange.kind() == "reset"


@pytest.mark.parametrize("part", [b"", PLAIN[:10], PLAIN[:-1], CHUNKED[:-1], INTERIM])
def test_a_truncated_reply_is_a_reset(part: bytes) -> None:
    """A connection that ends before the reply does is a failure, never a short answer."""
    exchange = Exchange().get(part) if part else Exchange()
    exchange.connection.connection_lost(None)
    assert exchange.kind() == "reset"
    assert exchange.connection.heard == bool(part)


def test_connection_close_is_honoured() -> None:
    """A server that announces its end is believed."""
    reply = PLAIN.replace(b"content-length", b"connection: close\r\ncontent-length")
    exchange = Exchange().get(reply)
    assert exchange.reply.result().body == b"hello"
    assert not exchange.connection.reusable


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
    ],
)
def test_garbage_is_a_protocol_failure(garbage: bytes) -> None:
    """What is not a reply that we can read ends the exchange at once."""
    assert Exchange().get(garbage).kind() == "protocol"


@pytest.mark.parametrize(
    "endless",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n\r\n"] + [b"x" * 100] * 11,
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"] + [b"1\r\nx\r\n"] * 1001,
        [b"HTTP/1.1 200 OK\r\n"] + [b"a: b\r\n"] * 300,
        [b"HTTP/1.1 200 OK\r\nx: "] + [b"x" * 1000] * 70,
        [b"HTTP/1.1 " + b"200 "] + [b"x" * 1000] * 70,
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * 3000,
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "] + [b"x" * 1000] * 70,
    ],
    ids=["length", "to-the-end", "chunks", "fields", "value", "phrase", "interim", "trailer"],
)
def test_endless_replies_are_cut(endless: list[bytes]) -> None:
    """No server can make us hold more than the limit."""
    exchange = Exchange(max_reply=1000)
    for piece in endless:
        if not exchange.reply.done():
            exchange.get(piece)
    assert exchange.kind() == "too_large"


def test_a_body_at_the_limit_is_taken() -> None:
    """The limit itself is allowed."""
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000
    assert len(Exchange(max_reply=1000).get(reply).reply.result().body) == 1000


def test_replies_under_way_together_are_bounded() -> None:
    """A server that fills each of many replies a little does not fill the memory."""
    loop, held = FakeLoop(), Held(2500)
    connections = [ClientConnection(loop.as_loop(), "http://h", 1000, held) for _ in range(4)]
    replies = []
    for connection in connections:
        connection.connection_made(FakeTransport())
        replies.append(connection.exchange(b"GET / HTTP/1.1\r\n\r\n", b"", 10.0))
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n" + b"x" * 800)
    assert [reply.done() for reply in replies] == [False, False, False, True]
    error = replies[3].exception()
    assert isinstance(error, TransportError)
    assert error.kind == "too_large"
    assert error.transient, "of another size it may be as it should"
    for connection in connections[:2]:
        connection.data_received(b"x" * 100)
    connections[2].connection_lost(None)
    assert [len(reply.result().body) for reply in replies[:2]] == [900, 900]
    assert replies[2].exception() is not None
    assert held.now == 0


def test_surplus_bytes_do_not_reach_the_next_exchange() -> None:
    """A second reply that nobody asked for ends the connection; the first one stands."""
    exchange = Exchange().get(PLAIN + PLAIN)
    assert exchange.reply.result().body == b"hello"
    assert not exchange.connection.reusable


def test_bytes_on_an_idle_connection_end_it() -> None:
    """A connection on which the server speaks unasked is not used again."""
    exchange = Exchange().get(PLAIN)
    assert exchange.connection.reusable
    exchange.get(PLAIN)
    assert not exchange.connection.reusable


def test_a_head_reply_has_no_body_whatever_it_claims() -> None:
    """The reply to HEAD is complete with its head, even with a huge length."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n"
    exchange = Exchange(head=True).get(head)
    assert exchange.reply.result().body == b""
    assert not exchange.connection.reusable


def test_a_slow_drip_ends_at_the_time_limit() -> None:
    """Bytes that keep coming do not move the deadline."""
    exchange = Exchange(timeout=10.0)
    exchange.get(PLAIN[:-5])
    for second in range(1, 6):
        exchange.loop.advance(second * 1.9)
        exchange.get(b"x" if second < 5 else b"")
        assert not exchange.reply.done()
    exchange.loop.advance(10.0)
    assert exchange.kind() == "timeout"


def test_each_exchange_has_its_own_deadline() -> None:
    """The time limit counts from each request, not from the connection's first."""
    exchange = Exchange(timeout=10.0).get(PLAIN)
    exchange.loop.advance(8.0)
    second = exchange.connection.exchange(b"GET / HTTP/1.1\r\n\r\n", b"", 10.0)
    exchange.loop.advance(10.0)
    exchange.loop.advance(17.9)
    assert not second.done()
    exchange.loop.advance(18.0)
    assert isinstance(second.exception(), TransportError)


def test_an_idle_connection_keeps_no_timer() -> None:
    """Once its last exchange is over, a connection asks nothing of the loop."""
    exchange = Exchange(timeout=10.0).get(PLAIN)
    exchange.loop.advance(10.0)
    assert exchange.loop.timers == []
    assert exchange.connection.reusable
