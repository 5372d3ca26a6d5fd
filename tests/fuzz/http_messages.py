"""Targets: what a hostile harness sends to the gateway, and a hostile model server to a worker."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from evalhpc.core.identity import Answer, Request, canonical_body
from evalhpc.core.stubs import carries_stub
from evalhpc.errors import EndpointError
from evalhpc.gateway.app import PassGateway
from evalhpc.http.client_connection import ClientConnection
from evalhpc.http.messages import HttpReply, HttpRequest
from evalhpc.http.server_connection import ServerConnection
from evalhpc.http.service import Service
from evalhpc.worker.dialect import OpenAI
from evalhpc.worker.export_deploy import ExportDeploy, ExportDeployHf
from evalhpc.worker.replies import classify, describe
from tests.fuzz.bytes_of import damaged
from tests.fuzz.target import Target
from tests.http_fakes import FakeLoop, FakeTransport, pieces

_LIMIT = 4096
_REQUESTS = [
    b"POST /v1/completions HTTP/1.1\r\nhost: h\r\napi-key: t\r\ncontent-length: 3\r\n\r\nabc",
    b"POST /v1/x HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t\r\ntransfer-encoding: chunked\r\n"
    b"\r\n2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\ntrailer: t\r\n\r\n",
    b"GET /models HTTP/1.1\r\nhost: h\r\nx-api-key: t\r\n\r\n",
    b"POST /v1/x HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
    b"POST /v1/x HTTP/1.1\r\napi-key: t\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"800\r\n%b\r\n" % (b"x" * 2048) * 3
    + b"0\r\n\r\n",
]
_REPLIES = [
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"800\r\n%b\r\n" % (b"x" * 2048) * 3
    + b"0\r\n\r\n",
    b"HTTP/1.1 307 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
]
_PARTS = [
    b"content-length: 5\r\n", b"content-length: 5, 6\r\n", b"content-length: -1\r\n",
    b"content-length: +5\r\n", b"content-length: 18446744073709551616\r\n",
    b"content-length: 99999999999\r\n", b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n", b"transfer-encoding: xchunked\r\n",
    b"Transfer-Encoding : chunked\r\n", b"transfer-encoding:\x0bchunked\r\n", b" folded\r\n",
    b"expect: 100-continue\r\n", b"upgrade: h2c\r\nconnection: upgrade\r\n",
    b"connection: close\r\n",
    b"content-encoding: gzip\r\n", b"\r\n\r\n", b"\n\n", b"\r", b"\n", b"\0", b"0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"fffffffffffffffff\r\n", b"5\r\nhello\r\n", b"-1\r\n", b"0x5\r\n",
    b"5;" + b"e" * 300 + b"\r\n", b"x: " + b"v" * 5000 + b"\r\n", b"a: b\r\n" * 300,
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 40, b"HTTP/0.9", b"HTTP/2.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT h:1 HTTP/1.1\r\n\r\n", b"GET http://[ HTTP/1.1",
    b"\x16\x03\x01\x02\x00", b"{" * 3000, b"x" * 5000,
]  # fmt: skip
_cuts = st.lists(st.integers(0, 10_000), max_size=4)


def _server(sent: tuple[bytes, list[int], bool]) -> None:
    """No error escapes, each answer is a reply, and what is held is bounded."""
    data, cuts, secret = sent
    loop, transport, seen = FakeLoop(), FakeTransport(), list[HttpRequest]()

    def handler(request: HttpRequest) -> HttpReply:
        seen.append(request)
        return HttpReply(200, b"{}")

    def report(request: HttpRequest, error: BaseException) -> None:
        raise AssertionError("a request failed") from error

    service = Service(handler, loop.as_loop(), b"t" if secret else None, _LIMIT, report)
    connection = ServerConnection(service)
    connection.connection_made(transport)
    for piece in pieces(data, cuts):
        if not transport.closed:
            connection.data_received(piece)
    for request in seen:
        assert len(request.body) <= _LIMIT
        names = [name for name, _ in request.headers]
        assert len(names) <= 256
        # Two lengths are two readings of where the next request starts.
        assert not (b"content-length" in names and b"transfer-encoding" in names)
        assert len({v for n, v in request.headers if n == b"content-length"}) <= 1
    if transport.taken:
        assert transport.taken.startswith(b"HTTP/1.1 ")
    loop.advance(10_000.0)
    connection.connection_lost(None)


def _client(sent: tuple[bytes, list[int], bool]) -> None:
    """One reply or one TransportError, whatever comes; never more body than allowed."""
    data, cuts, bodiless = sent
    loop, transport = FakeLoop(), FakeTransport()
    connection = ClientConnection(loop.as_loop(), "http://server", _LIMIT)
    connection.connection_made(transport)
    reply = connection.exchange(b"GET / HTTP/1.1\r\n\r\n", b"", 60.0, bodiless=bodiless)
    for piece in pieces(data, cuts):
        if not transport.closed:
            connection.data_received(piece)
    loop.advance(61.0)
    connection.connection_lost(None)
    assert reply.done()
    if reply.exception() is None:
        answer = reply.result()
        assert len(answer.body) <= _LIMIT
        assert answer.status >= 200
        assert answer.retry_after is None or answer.retry_after >= 0
    else:
        assert isinstance(reply.exception(), EndpointError)


_JSON = [
    b'{"model": "m", "prompt": "a", "max_tokens": 8, "temperature": 0}',
    b'{"model": "m", "prompt": ["a", "b"], "n": 2, "echo": true, "logprobs": 1}',
    b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "stream": true,'
    b' "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object",'
    b' "properties": {"a": {"type": "integer"}}}}}], "tool_choice": "required",'
    b' "response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}}',
    b'{"choices": [{"index": 0, "text": "a", "finish_reason": "stop", "logprobs":'
    b' {"token_logprobs": [null, -1.5], "top_logprobs": [null, {"a": -1.5}]}}],'
    b' "usage": {"prompt_tokens": 1, "completion_tokens": 1}}',
    b'{"choices": [{"message": {"role": "assistant", "content": "a"}}], "error": null}',
    b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": null}]}\n\ndata: [DONE]\n\n',
    b'{"input": ["a"], "encoding_format": "base64", "dimensions": 3, "documents": ["a"],'
    b' "query": "q", "text_1": "a", "text_2": ["b"]}',
]  # fmt: skip
_JSON_PARTS = [
    b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-0", b"1e-400", b"0.1",
    b"9" * 30, b"9" * 5000, b"18446744073709551616", b"-9223372036854775809", b"[]", b"{}", b'""',
    b"[" * 300, b"[" * 1010, b"[" * 3000, b'{"a":' * 260, b'{"a":' * 1010, b"]" * 300, b"}" * 260,
    b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\u0000"', b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\0",
    b'"n": 1000000000,', b'"n": -1,', b'"n": "2",', b'"choices": 5,', b'"choices": "x",',
    b'"choices": {"a": 1},', b'"choices": [1],', b'"choices": [null],', b'"choices": [[]],',
    b'"error": {"message": []},', b'"error": {"message": {"error": 1}},', b'"usage": 5,',
    b'"usage": {"completion_tokens": "9"},', b'"usage": {"completion_tokens": 1e300},',
    b'"logprobs": 5,', b'"logprobs": [],', b'"logprobs": {"token_logprobs": 5},',
    b'"finish_reason": [],', b'"finish_reason": {},', b'"max_tokens": -5,', b'"messages": {},',
    b'"messages": [5],', b'"tools": {},', b'"tools": [{"function": []}],', b'"prompt": [[1], "a"],',
    b'"response_format": 5,', b'"stream": 1,', b'"stop": {},', b'"temperature": "0",',
    b'"enum": [[]],', b'"minItems": 1e9,', b'"type": ["object", 5],', b'"pattern": "(a+)+$",',
    b'"minLength": 999999999999,', b'"prefixItems": {},', b'"allOf": [{"$ref": "#"}],',
    b'"required": {"a": 1},', b'"model": 5,', b'"model": {},', b'"input": {},',
    b'"dimensions": 1e9,',
    b'"dimensions": 999999999,', b'"text_2": {},', b'"documents": 5,',
]  # fmt: skip
_RAW = [*(part for part in _JSON_PARTS if not part.endswith(b",")), b"[" * 250 + b"]" * 250,
        b"[" * 1000 + b"]" * 1000, b"[" * 20000 + b"]" * 20000, b"1.5", b"3", b"-1", b"0", b'"a"',
        b'["a", "b"]', b'[1, 2]', b'[[1], [2]]', b'[{}]', b'{"type": "object"}', b"1e9", b"[null]",
        b'{"finish_reason": ["a"]}', b'{"message": {"content": 5}}', b"false"]  # fmt: skip
_NAMES = sorted({
    name
    for body in (*_JSON, b'"n" "stop" "max_tokens" "seed" "best_of" "suffix" "min_tokens" "top_k"'
                 b'"stream_options" "parallel_tool_calls" "logit_bias" "user" "index" "delta"')
    for name in re.findall(rb'"([a-z_0-9]+)"', body)
})  # fmt: skip


_TREES = [json.loads(body) for body in _JSON if body.startswith(b"{")]
_REPLY_TREES = [tree for tree in _TREES if "choices" in tree]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key or index) of every value in it."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


@st.composite
def _objects(draw: st.DrawFn, trees: list[Any], values: list[bytes]) -> bytes:
    """An honest body, some of whose fields, at any depth, have any value instead, or are new."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    count = draw(st.integers(1, 3))
    for number in range(count):
        new = [(tree, draw(st.sampled_from(_NAMES)).decode())]
        holder, key = draw(st.sampled_from([*_places(tree), *new]))
        holder[key] = f"@{number}@"
    data = json.dumps(tree).encode()
    for number in range(count):
        data = data.replace(b'"@%d@"' % number, draw(st.sampled_from(values)))
    return data


_bodies = st.one_of(damaged(_JSON, _JSON_PARTS), _objects(_TREES, [*_RAW, *_JSON]))
_reply_bodies = st.one_of(
    _bodies,
    _objects(_REPLY_TREES, _RAW),
    _objects(_REPLY_TREES, _RAW).map(lambda body: b"data: %b\n\ndata: [DONE]\n\n" % body),
)
_paths = st.sampled_from([
    "/v1/completions", "/v1/chat/completions/", "/v1/responses", "/v1/embeddings", "/v1/rerank",
    "/v1/score", "/v1/models", "/v1/models/m", "/v1", "*", "//x", "/v1/\xff?\xe9", "/?", "x",
])  # fmt: skip


def _gateway(asked: tuple[str, str, bytes]) -> None:
    """Every request gets a reply; one that must be planned is, with the very bytes that came."""
    method, path, body = asked
    misses: list[Request] = []
    gateway = PassGateway("b", "model", "m", lambda key: None, misses.append)
    reply = gateway(HttpRequest(method, path, (), body))
    assert isinstance(reply, HttpReply)
    assert 200 <= reply.status < 500
    assert len(reply.body) < 64 << 20
    assert len(misses) + gateway.counts.dependents <= 1
    assert all(miss.body == body and len(miss.key) == 20 for miss in misses)
    if method == "POST" and reply.status == 200 and not path.endswith(("embeddings", "score")):
        assert carries_stub(reply.body) or b"tool_calls" in reply.body or b"enum" in body


def _identity(bodies: tuple[bytes, bytes]) -> None:
    """A canonical form is its own; bodies that share one say the same."""
    forms = [canonical_body(body) for body in bodies]
    assert [canonical_body(form) for form in forms] == forms
    if forms[0] != forms[1] or any(b"user" in body for body in bodies):
        return
    try:
        said = [json.dumps(json.loads(body), sort_keys=True) for body in bodies]
    except (ValueError, RecursionError):
        said = [repr(body) for body in bodies]
    assert said[0] == said[1]


_REQUEST = Request(b"k" * 20, "b", "model", "POST", "/completions", _JSON[1])
_DIALECTS = (OpenAI(), ExportDeploy(), ExportDeployHf())


def _reply(came: tuple[int, str, bytes, int]) -> None:
    """A reply is of one kind; an answer is joined, or refused with an EndpointError."""
    status, content_type, body, asked = came
    request = replace(
        _REQUEST, body=_JSON[asked], path="/chat/completions" if asked == 2 else "/completions"
    )
    kind = classify("POST", request.path, status, content_type, body)
    assert len(describe(status, body)) < 400
    assert "\n" not in describe(status, body)
    if kind != "answer":
        return
    for dialect in _DIALECTS:
        with suppress(EndpointError):
            wires = dialect.adapt(request)
            answer = Answer(status, content_type, body)
            parse = dialect.join(request, [answer] * len(wires))
            assert isinstance(parse.body, bytes)


_LARGE = [2**64 - 1, 2**64, 2**64 + 1, -(2**63) - 1, -(2**63) - 2, 10**30, 10**30 + 1]
_numbers = st.one_of(
    st.sampled_from(_RAW), st.sampled_from([b"%d" % number for number in _LARGE])
).map(lambda raw: b'{"seed": %b}' % raw)
TARGETS = [
    Target("identity", st.one_of(
        st.tuples(_bodies, _bodies), st.tuples(_numbers, _numbers)), _identity),
    Target("gateway-bytes", st.tuples(damaged(_REQUESTS, _PARTS), _cuts, st.booleans()), _server),
    Target("server-reply-bytes", st.tuples(damaged(_REPLIES, _PARTS), _cuts, st.booleans()),
           _client),
    Target("gateway-json", st.tuples(st.sampled_from(["POST", "GET", "HEAD", "DELETE"]), _paths,
                                     _bodies), _gateway),
    Target("model-reply", st.tuples(
        st.sampled_from([*[200] * 20, 204, 301, 400, 404, 422, 429, 500, 999]),
        st.sampled_from([*["application/json", "text/event-stream"] * 5, "", "text/html\xff"]),
        _reply_bodies, st.integers(0, 2)), _reply),
]  # fmt: skip
