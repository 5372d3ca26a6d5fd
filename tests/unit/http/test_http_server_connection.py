"""The server's side of a connection, fed by hand: order, limits, refusals, back-pressure."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.http.messages import HttpReply, HttpRequest
from evalhpc.http.server_connection import ServerConnection
from evalhpc.http.service import LOOK, QUIET_LOOKS, SLOW_LOOKS, Handler, Service
from tests.http_fakes import FakeLoop, FakeTransport, pieces

POST = b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc"
CHUNKED = (
    b"POST http://h/v1/y?q=1 HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\ntrailer: t\r\n\r\n"
)
GET = b"GET /models HTTP/1.1\r\nHost: h\r\nX-Long: " + b"v" * 50 + b"\r\n\r\n"


class Peer:
    """A connection with a handler that echoes what it got, and what came of it."""

    def __init__(
        self, handler: Handler | None = None, *, token: bytes | None = None, max_body: int = 1000
    ) -> None:
        self.seen: list[HttpRequest] = []
        self.failures: list[BaseException] = []
        self.loop = FakeLoop()
        self.transport = FakeTransport()
        service = Service(
            handler or self.echo, self.loop.as_loop(), token, max_body,
            lambda request, error: self.failures.append(error),
        )  # fmt: skip
        self.connection = ServerConnection(service)
        self.connection.connection_made(self.transport)

    def echo(self, request: HttpRequest) -> HttpReply:
        self.seen.append(request)
        return HttpReply(200, f"{request.method} {request.target} ".encode() + request.body)

    def send(self, data: bytes) -> bytes:
        """What the server wrote on getting `data`."""
        before = len(self.transport.taken)
        self.connection.data_received(data)
        taken: bytes = self.transport.taken[before:]
        return taken


def test_a_flood_of_connections_ends_its_own() -> None:
    """Whoever has shown a token keeps his; of the others the oldest go."""
    service = Peer(token=b"t").connection._service
    service.most_strangers = 3
    service.strangers.clear()
    peers = []
    for number in range(10):
        connection, transport = ServerConnection(service), FakeTransport()
        connection.connection_made(transport)
        peers.append(transport)
        if number in (0, 5):
            connection.data_received(b"GET /models HTTP/1.1\r\napi-key: t\r\n\r\n")
        if number == 1:
            connection.data_received(b"GET /models HTTP/1.1\r\napi-key: x\r\n\r\n")
    assert [n for n, transport in enumerate(peers) if not transport.aborted] == [0, 5, 7, 8, 9]
    assert len(service.strangers) == 3


def body_of(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_requests_may_be_cut_anywhere(cuts: list[int]) -> None:
    """Pipelined requests give the same answers, in order, however the bytes are cut."""
    peer = Peer()
    for piece in pieces(POST + CHUNKED + GET + POST, cuts):
        peer.send(piece)
    assert [(r.method, r.target, r.body) for r in peer.seen] == [
        ("POST", "/v1/x", b"abc"),
        ("POST", "/v1/y?q=1", b"hello"),
        ("GET", "/models", b""),
        ("POST", "/v1/x", b"abc"),
    ]
    assert peer.seen[2].header(b"x-long") == "v" * 50
    replies = peer.transport.taken.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [body_of(reply) for reply in replies] == [
        b"POST /v1/x abc", b"POST /v1/y?q=1 hello", b"GET /models ", b"POST /v1/x abc",
    ]  # fmt: skip
    assert not peer.transport.closed


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_no_input_raises(data: bytes, cuts: list[int]) -> None:
    """Whatever bytes come, the connection answers or waits; it never raises."""
    peer = Peer()
    for piece in pieces(data, cuts):
        peer.connection.data_received(piece)


def test_head_gets_the_length_but_no_body() -> None:
    """HEAD is answered as GET would be, without the body."""
    reply = Peer().send(b"HEAD /x HTTP/1.1\r\nhost: h\r\n\r\n")
    assert reply.endswith(b"content-length: 8\r\n\r\n")


def test_bodiless_status_has_no_length() -> None:
    """204 goes out with neither length nor body."""
    reply = Peer(lambda request: HttpReply(204, b"ignored")).send(GET)
    assert reply == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_a_large_body_goes_out_whole() -> None:
    """A body beyond the copy limit follows its head unchanged."""
    body = bytes(range(256)) * 1024
    assert body_of(Peer(lambda request: HttpReply(200, body)).send(GET)) == body


def test_http_1_0_closes_after_the_answer() -> None:
    """An HTTP/1.0 client without keep-alive is told, and gets, the end of the connection."""
    peer = Peer()
    assert b"connection: close\r\n" in peer.send(b"GET / HTTP/1.0\r\n\r\n")
    assert peer.transport.closed


def test_http_1_0_keep_alive_is_confirmed() -> None:
    """An HTTP/1.0 client that asks to stay is told that it may."""
    peer = Peer()
    reply = peer.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"connection: keep-alive\r\n" in reply
    assert not peer.transport.closed


def test_connection_close_is_honoured() -> None:
    """A client that announces its end gets its answer, then the end."""
    peer = Peer()
    assert b"connection: close\r\n" in peer.send(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert peer.transport.closed
    assert not peer.transport.aborted


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_malformed_requests_get_400_and_the_end(garbage: bytes) -> None:
    """What is not HTTP is answered once; the rest is read and dropped, then the line is cut."""
    peer = Peer()
    reply = peer.send(garbage)
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"connection: close\r\n" in reply
    assert json.loads(body_of(reply))["error"]["type"] == "invalid_request_error"
    assert peer.transport.eof
    assert not peer.transport.closed
    assert peer.send(GET) == b""
    peer.loop.advance(60.0)
    assert peer.transport.aborted
    assert peer.seen == []


def test_answers_precede_the_refusal_of_what_follows() -> None:
    """A good request before garbage is still answered, first."""
    taken = Peer().send(POST + b"garbage\r\n\r\n")
    assert taken.index(b"200 OK") < taken.index(b"400 Bad Request")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 3\r\n\r\nabc",
        b"CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n",
    ],
)
def test_upgrades_are_refused(request_: bytes) -> None:
    """A client that asks for another protocol is told that there is none, and nothing is run."""
    peer = Peer()
    assert peer.send(request_).startswith(b"HTTP/1.1 501 ")
    assert peer.seen == []


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\ncontent-length: 1001\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"190\r\n%b\r\n" % (b"x" * 400) * 3,
    ],
)
def test_bodies_over_the_limit_get_413(request_: bytes) -> None:
    """A body is refused as soon as it is known to be too large, however it is sent."""
    peer = Peer(max_body=1000)
    assert peer.send(request_).startswith(b"HTTP/1.1 413 ")
    assert peer.seen == []


def test_a_body_at_the_limit_is_taken() -> None:
    """The limit itself is allowed."""
    peer = Peer(max_body=1000)
    peer.send(b"POST / HTTP/1.1\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000)
    assert len(peer.seen[0].body) == 1000


@pytest.mark.parametrize(
    "endless",
    [
        [b"GET / HTTP/1.1\r\nx: "] + [b"v" * 1000] * 100,
        [b"GET /"] + [b"v" * 1000] * 100,
        [b"GET / HTTP/1.1\r\n"] + [b"a: b\r\n" * 10] * 100,
        [b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nt: "] + [b"v" * 1000] * 100,
        [b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;"] + [b"v" * 1000] * 100,
    ],
    ids=["value", "target", "fields", "trailer", "extension"],
)
def test_endless_heads_get_431(endless: list[bytes]) -> None:
    """A head, trailer or chunk extension without end is cut short."""
    peer = Peer()
    assert b"".join(map(peer.send, endless)).startswith(b"HTTP/1.1 431 ")


def test_expect_continue_is_answered_before_the_body() -> None:
    """A client that holds its body back is asked for it, once."""
    peer = Peer()
    head = b"POST /v1/x HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
    assert peer.send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert peer.send(b"a") == b""
    assert peer.send(b"bc").endswith(b"POST /v1/x abc")


def test_expect_continue_with_the_body_at_once_needs_no_100() -> None:
    """A body that is already here is not asked for."""
    head = b"POST /v1/x HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
    assert Peer().send(head + b"abc").startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (b"Authorization: Bearer s3cret", 200),
        (b"authorization: bearer s3cret", 200),
        (b"api-key: s3cret", 200),
        (b"X-Api-Key: s3cret", 200),
        (b"Authorization: Bearer wrong", 401),
        (b"Authorization: s3cret", 401),
        (b"X-Api-Key: s3cret2", 401),
        (b"X-Other: s3cret", 401),
    ],
)
def test_a_token_is_required_when_set(field: bytes, status: int) -> None:
    """Only a request with the token in one of the usual headers reaches the handler."""
    peer = Peer(token=b"s3cret")
    reply = peer.send(b"POST / HTTP/1.1\r\n%b\r\ncontent-length: 3\r\n\r\nabc" % field)
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert len(peer.seen) == (status == 200)
    assert not peer.transport.closed
    if status == 401:
        assert json.loads(body_of(reply))["error"]["type"] == "authentication_error"


def test_a_denied_client_that_waits_is_not_asked_for_its_body() -> None:
    """Without the token, 100-continue is answered with 401 at once."""
    head = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
    assert Peer(token=b"t").send(head).startswith(b"HTTP/1.1 401 ")


def test_a_failing_handler_is_a_500_and_is_reported() -> None:
    """The client learns that the server failed, the server's owner learns why."""

    def fail(request: HttpRequest) -> HttpReply:
        raise KeyError("gone")

    peer = Peer(fail)
    reply = peer.send(GET)
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert json.loads(body_of(reply))["error"]["type"] == "server_error"
    assert [type(error) for error in peer.failures] == [KeyError]
    assert not peer.transport.closed


@pytest.mark.parametrize(
    "reply",
    [
        HttpReply(200, b"", headers=(("x", "a\r\nset-cookie: b"),)),
        HttpReply(200, b"", content_type="a\nb"),
        HttpReply(100),
        HttpReply(200, "text"),  # type: ignore[arg-type]  # the mistake under test
    ],
)
def test_a_reply_that_cannot_be_sent_is_a_500(reply: HttpReply) -> None:
    """A handler cannot break the protocol: what it may not send is its failure."""
    peer = Peer(lambda request: reply)
    assert peer.send(GET).startswith(b"HTTP/1.1 500 ")
    assert len(peer.failures) == 1


def test_a_slow_reader_holds_up_its_own_requests() -> None:
    """While the client does not read, its further requests wait and nothing more is read."""
    peer = Peer()
    peer.connection.pause_writing()
    assert peer.send(POST + POST) == b""
    assert not peer.transport.reading
    peer.connection.resume_writing()
    assert peer.transport.taken.count(b"200 OK") == 2
    assert peer.transport.reading


def test_an_idle_connection_ends_at_once_when_the_server_closes() -> None:
    """Closing the server closes a connection without a request."""
    peer = Peer()
    peer.connection.wind_down()
    assert peer.transport.closed


def test_a_request_under_way_is_answered_before_the_server_closes() -> None:
    """A request whose first bytes came before the close gets its answer."""
    peer = Peer()
    peer.send(POST[:-1])
    peer.connection.wind_down()
    assert not peer.transport.closed
    assert peer.send(POST[-1:]).endswith(b"abc")


def looks(peer: Peer, count: int, each: bytes = b"") -> bool:
    """Whether the connection is there after so many looks, with these bytes before each."""
    for _ in range(count):
        if each and not peer.transport.closed:
            peer.connection.data_received(each)
        if not peer.transport.closed:
            peer.connection.look()
    return not peer.transport.closed


DENIED = b"POST / HTTP/1.1\r\napi-key: wrong\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "each"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nx: ", b"v"), (DENIED, b"1\r\nx\r\n"), (POST + b"G", b"")],
    ids=["nothing", "slow head", "denied body", "second head"],
)
def test_a_client_that_does_not_show_itself_is_cut_off(first: bytes, each: bytes) -> None:
    """Whoever holds no token, or never says what it wants, has some looks, whatever it sends."""
    peer = Peer(token=b"t" if first == DENIED else None)
    if first:
        peer.send(first)
    assert looks(peer, SLOW_LOOKS, each)
    assert not looks(peer, 1, each)
    assert peer.transport.aborted


@pytest.mark.parametrize("first", [POST, POST[:-1]], ids=["idle", "in a body"])
def test_a_silent_client_is_cut_off_late(first: bytes) -> None:
    """A harness may think for long between two requests, or within one; not for ever."""
    peer = Peer()
    peer.send(first)
    assert looks(peer, QUIET_LOOKS)
    assert not looks(peer, 1)


def test_a_body_that_drips_is_waited_for() -> None:
    """Each piece of a known client's body is a sign of life."""
    peer = Peer()
    peer.send(POST.replace(b"length: 3", b"length: 900") + b"x")
    assert looks(peer, QUIET_LOOKS + 5, b"x")


def test_a_client_that_takes_no_answer_is_cut_off() -> None:
    """Its further requests wait in vain."""
    peer = Peer()
    peer.connection.pause_writing()
    peer.send(POST + POST)
    assert looks(peer, QUIET_LOOKS)
    assert not looks(peer, 1)


def test_a_client_that_waits_for_us_is_never_cut_off() -> None:
    """A model may take an hour for one answer."""
    peer = Peer()
    peer.send(POST)
    peer.connection._task = asyncio.Future(loop=peer.loop.as_loop())  # type: ignore[assignment] # no task
    assert looks(peer, 10 * QUIET_LOOKS)


def test_the_service_looks_at_all_connections_until_it_closes() -> None:
    """At its interval, for as long as it serves."""
    peer = Peer()
    service = peer.connection._service
    service.watch()
    for number in range(1, SLOW_LOOKS + 2):
        assert not peer.transport.closed
        peer.loop.advance(number * LOOK)
    assert peer.transport.aborted
    service.unwatch()
    assert all(timer.cancelled for _, timer in peer.loop.timers)


def test_bodies_of_all_connections_together_are_bounded() -> None:
    """Many clients that each send a little less than the limit do not fill the memory."""
    first = Peer(max_body=1000)
    service = first.connection._service
    others = []
    for _ in range(9):
        connection, transport = ServerConnection(service), FakeTransport()
        connection.connection_made(transport)
        connection.data_received(POST.replace(b"length: 3", b"length: 999") + b"x" * 900)
        others.append((connection, transport))
    refused = [transport.taken for _, transport in others if transport.taken]
    assert len(refused) == 1
    assert refused[0].startswith(b"HTTP/1.1 413 ")
    for connection, _ in others:
        connection.connection_lost(None)
    assert service.held.now == 0
    assert first.send(POST).endswith(b"abc")
    assert service.held.now == 0


def test_connections_are_counted() -> None:
    """The server knows its open connections, and when the last one went."""
    peer = Peer()
    service = peer.connection._service
    assert service.connections == {peer.connection}
    peer.connection.connection_lost(None)
    assert not service.connections
    assert service.emptied.is_set()


def test_asyncio_is_not_running() -> None:
    """These tests need no event loop: answering at once costs no task."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
