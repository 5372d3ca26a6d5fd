"""Requests lose the keys that a harness puts into them, and nothing else."""

from __future__ import annotations

from evalhpc.gateway.unkeyed import Unkeyed
from evalhpc.http.messages import HttpReply, HttpRequest

TOKEN = "0123456789abcdef0123456789abcdef"


def seen(target: str, body: bytes, secrets: tuple[str, ...] = (TOKEN,)) -> HttpRequest:
    requests: list[HttpRequest] = []

    def handler(request: HttpRequest) -> HttpReply:
        requests.append(request)
        return HttpReply(200)

    Unkeyed(handler, secrets)(HttpRequest("POST", target, (), body))
    return requests[0]


def test_a_key_in_url_or_body_is_masked() -> None:
    """So that the same request of the next pass, with another key, is the same."""
    request = seen(f"/v1/x?api_key={TOKEN}&n=1", b'{"user": "' + TOKEN.encode() + b'"}')
    assert request.target == "/v1/x?api_key=***&n=1"
    assert request.body == b'{"user": "***"}'


def test_anything_else_passes_untouched() -> None:
    """Words too: a short secret could be one."""
    body = '{"prompt": "the default answer is ü"}'.encode()
    request = seen("/v1/x?q=%FF", body, (TOKEN, "default", "answer is"))
    assert (request.target, request.body) == ("/v1/x?q=%FF", body)


def test_a_key_that_is_no_text_is_masked_too() -> None:
    """Python passes bytes of a variable that are not UTF-8 on as surrogates."""
    key = TOKEN.encode() + b"\xff"
    request = seen("/v1/x", b'{"user": "' + key + b'"}', (key.decode("utf-8", "surrogateescape"),))
    assert request.body == b'{"user": "***"}'
