"""Only what a model said, or a refusal that will never change, is an answer."""

from __future__ import annotations

import pytest

from evalhpc.worker.replies import classify, describe, ignores_echo, misfit

JSON = "application/json"


@pytest.mark.parametrize(
    ("method", "status", "content_type", "body", "kind"),
    [
        ("POST", 200, JSON, b'{"choices":[{}]}', "answer"),
        ("POST", 200, JSON, b'{"choices":[]}', "transient"),
        ("POST", 200, JSON, b"{}", "transient"),
        ("POST", 200, JSON, b"null", "transient"),
        ("POST", 200, JSON, b'{"choices":[{"finish_reason":"abort"}]}', "transient"),
        (
            "POST",
            200,
            "text/event-stream",
            b'data: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n',
            "transient",
        ),
        (
            "POST",
            200,
            "text/event-stream",
            b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
            "answer",
        ),
        ("GET", 200, "text/plain", b"0.9.1", "answer"),
        ("POST", 200, "text/html", b"<html>proxy</html>", "transient"),
        ("POST", 200, JSON, b'{"choices":[', "transient"),
        ("POST", 200, JSON, b'{"error":{"message":"out of memory"}}', "transient"),
        ("POST", 200, JSON, b'{"error":null,"choices":[{}]}', "answer"),
        ("POST", 200, "text/event-stream", b"data: {}\n\ndata: [DONE]\n\n", "answer"),
        ("POST", 200, "text/event-stream", b"data: {}\n\n", "transient"),
        ("POST", 200, JSON, b'{"choices":5}', "transient"),
        ("POST", 200, JSON, b'{"choices":{"a":1}}', "transient"),
        ("POST", 200, JSON, b'{"choices":[null]}', "transient"),
        ("POST", 200, JSON, b'{"choices":[{"finish_reason":[]}]}', "answer"),
        ("POST", 200, JSON, b'{"choices":[{"logprobs":[NaN]}]}', "transient"),
        ("POST", 200, JSON, b'{"choices":[{"logprobs":[-Infinity]}]}', "answer"),
        ("POST", 200, JSON, b'{"choices":[{"text":"NaN \\ud800"}]}', "answer"),
        ("POST", 200, JSON, b'{"choices":' + b"[" * 100_000, "transient"),
        (
            "POST",
            200,
            "text/event-stream",
            b'data: {"choices":[5]}\n\ndata: [DONE]\n\n',
            "transient",
        ),
        ("POST", 400, JSON, b'{"error":{"message":"context too long"}}', "answer"),
        ("POST", 400, "text/html", b"<html>bad gateway</html>", "failed"),
        ("POST", 401, JSON, b"{}", "denied"),
        ("POST", 404, JSON, b"{}", "denied"),
        ("GET", 404, JSON, b"{}", "answer"),
        ("POST", 429, JSON, b"{}", "transient"),
        ("POST", 503, "text/plain", b"loading", "transient"),
        ("POST", 410, JSON, b"{}", "failed"),
    ],
)
def test_each_reply_is_what_it_is(
    method: str, status: int, content_type: str, body: bytes, kind: str
) -> None:
    """Answers are recorded, transient replies asked again, denials end the worker."""
    assert classify(method, "/completions", status, content_type, body) == kind


def test_a_route_that_a_server_lacks_is_an_answer_of_that_route_only() -> None:
    """A harness may probe /tokenize; a server without /completions is the wrong server."""
    assert classify("POST", "/tokenize", 404, JSON, b"{}") == "answer"
    assert classify("POST", "/chat/completions?x=1", 404, JSON, b"{}") == "denied"


def test_a_description_is_one_line_with_the_servers_message() -> None:
    """Failures are read by people."""
    assert describe(500, b'{"error":{"message":"CUDA\\nout of memory"}}') == (
        "HTTP 500: CUDA out of memory"
    )
    assert describe(502, b"<html>\n bad </html>") == "HTTP 502: <html> bad </html>"
    assert describe(500, b'{"error":{"message":"a\\u001b[2Jb\\u202ec"}}') == "HTTP 500: a [2Jb c"


@pytest.mark.parametrize(
    "body", [b"x" * (8 << 20), b"[" * 1000 + b"]" * 1000, b'{"message":' * 900, b"\xff" * 9999]
)
def test_a_description_of_anything_is_short(body: bytes) -> None:
    """Neither size nor depth of what a server says gets into a log, or stops the worker."""
    assert 0 < len(describe(500, body)) < 400


@pytest.mark.parametrize(
    ("request_", "choice", "ignored"),
    [
        (b'{"echo":true,"logprobs":1,"max_tokens":1}', b'{"token_logprobs":[null,-1,-2]}', False),
        (b'{"echo":true,"logprobs":1,"max_tokens":1}', b'{"token_logprobs":[-2]}', True),
        (b'{"echo":true,"logprobs":1,"max_tokens":1}', b'{"content":[{"logprob":-1}]}', True),
        (b'{"echo":true,"logprobs":1,"max_tokens":1}', b"null", True),
        (b'{"echo":true,"logprobs":1,"max_tokens":null}', b'{"token_logprobs":[-1,-2]}', False),
        (b'{"echo":true,"max_tokens":1}', b"null", False),
        (b'{"echo":false,"logprobs":1}', b"null", False),
        (b'{"prompt":"say \\"echo\\"","logprobs":1}', b"null", False),
    ],
)
def test_a_server_that_ignores_echo_is_found_out(
    request_: bytes, choice: bytes, ignored: bool
) -> None:
    """A reply without the prompt's log-probabilities must never be scored as if it had them."""
    reply = b'{"usage":{"completion_tokens":1},"choices":[{"logprobs":' + choice + b"}]}"
    assert ignores_echo(request_, reply) is ignored


@pytest.mark.parametrize("usage", [b"5", b"null", b'{"completion_tokens":"9"}', b"[1]"])
@pytest.mark.parametrize("choice", [b"5", b'{"logprobs":5}', b'{"logprobs":{"token_logprobs":7}}'])
def test_an_echo_of_another_shape_is_none(usage: bytes, choice: bytes) -> None:
    """Whatever stands where the log-probabilities should, there are none."""
    reply = b'{"usage":%b,"choices":[%b]}' % (usage, choice)
    assert ignores_echo(b'{"echo":true,"logprobs":1}', reply)


@pytest.mark.parametrize(
    ("request_", "choices", "reason"),
    [
        (b'{"prompt":"a"}', b"[{}]", ""),
        (b'{"prompt":"a","n":2}', b"[{},{}]", ""),
        (b'{"prompt":"a","n":2}', b"[{}]", "it has 1 choices, and 2 were asked for"),
        (b'{"prompt":["a","b"]}', b"[{}]", "it has 1 choices, and 2 were asked for"),
        (b'{"prompt": ["a","b"],"n":2}', b"[{},{},{}]", "it has 3 choices, and 4 were asked for"),
        (b'{"prompt":[[1,2],[3]]}', b"[{},{}]", ""),
        (b'{"prompt":[1,2,3]}', b"[{}]", ""),
        (b'{"messages":[],"n":1}', b"[{},{}]", "it has 2 choices, and 1 were asked for"),
        (b'{"prompt":"a","n":null}', b"[{}]", ""),
        (b'{"prompt":"a","n":"x"}', b"[{}]", ""),
        (b'"n"', b"[{}]", ""),
    ],
)
def test_an_answer_has_as_many_choices_as_were_asked_for(
    request_: bytes, choices: bytes, reason: str
) -> None:
    """One for each prompt and copy; else what is missing would be scored as something else."""
    reply = b'{"choices":%b}' % choices
    assert misfit("/completions", request_, JSON, reply) == reason
    assert misfit("/rerank", request_, JSON, reply) == ""


def test_a_stream_that_nobody_asked_for_is_no_answer() -> None:
    """A harness that wants JSON cannot read it; one that asked for a stream gets it."""
    stream = ("text/event-stream", b"data: {}\n\ndata: [DONE]\n\n")
    assert "none was asked for" in misfit("/completions", b'{"prompt":"a"}', *stream)
    assert misfit("/completions", b'{"prompt":"a","stream":true,"n":2}', *stream) == ""
