"""Heads: what goes on the wire around a body, and nothing that could break out of it."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.http.heads import (
    field_line,
    origin_form,
    parse_retry_after,
    reply_start,
    request_start,
)
from evalhpc.http.messages import HttpRequest, HttpResponse, error_reply


def test_request_start_names_method_target_and_type() -> None:
    """A request begins with its line and its content type."""
    start = request_start("POST", "/v1/completions?a=%20", "application/json")
    assert start == b"POST /v1/completions?a=%20 HTTP/1.1\r\ncontent-type: application/json\r\n"


def test_request_start_leaves_out_an_empty_type() -> None:
    """A request without a body has no content type."""
    assert request_start("GET", "/models", "") == b"GET /models HTTP/1.1\r\n"


@pytest.mark.parametrize("target", ["models", "", "/a b", "/a\r\nhost: x", "/\x00", "/snow\u2603"])
def test_request_start_refuses_unfit_targets(target: str) -> None:
    """A target that would end the request line, or is not one, is refused."""
    with pytest.raises(ValueError, match="request target"):
        request_start("GET", target, "")


@pytest.mark.parametrize("method", ["", "get", "GET /x", "GET\r\n"])
def test_request_start_refuses_unfit_methods(method: str) -> None:
    """Only an upper-case word is a method."""
    with pytest.raises(ValueError, match="HTTP method"):
        request_start(method, "/", "")


def test_reply_start_has_status_type_connection_and_own_headers() -> None:
    """A reply's start holds the reason phrase and each field on a line of its own."""
    start = reply_start(404, "text/plain", (("retry-after", "3"),), "close")
    assert start == (
        b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\nconnection: close\r\n"
        b"retry-after: 3\r\n"
    )


def test_reply_start_knows_no_phrase_for_odd_status() -> None:
    """A status without a phrase is still sent."""
    assert reply_start(499, "", (), "") == b"HTTP/1.1 499 \r\n"


def test_reply_start_of_bodiless_status_has_no_type() -> None:
    """204 has no body, so it has no content type."""
    assert reply_start(204, "application/json", (), "") == b"HTTP/1.1 204 No Content\r\n"


@pytest.mark.parametrize("status", [0, 101, 199, 600])
def test_reply_start_refuses_what_is_not_final(status: int) -> None:
    """Only 200 to 599 can end an exchange."""
    with pytest.raises(ValueError, match="final reply"):
        reply_start(status, "", (), "")


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_field_is_one_line_or_refused(name: str, value: str) -> None:
    """No name or value can add a second line, whatever it holds."""
    try:
        line = field_line(name, value)
    except ValueError:
        return
    assert line.endswith(b"\r\n")
    assert b"\n" not in line[:-2]
    assert b"\r" not in line[:-2]
    assert line.decode("latin-1") == f"{name}: {value}\r\n"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("1.5", 1.5),
        (formatdate(1_000_030, usegmt=True), 30.0),
        (formatdate(999_000, usegmt=True), 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("inf", None),
        ("1e9", None),
        ("Sun, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    """Both forms of Retry-After become seconds from now; anything else is no wish at all."""
    assert parse_retry_after(value, now=1_000_000.0) == seconds


@given(st.text(max_size=60))
def test_retry_after_never_raises(value: str) -> None:
    """Whatever a server writes there, we get seconds or None."""
    seconds = parse_retry_after(value, now=0.0)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("target", "form"),
    [
        (b"/v1/models?x=1", "/v1/models?x=1"),
        (b"http://host:80/v1/models?x=http://y/", "/v1/models?x=http://y/"),
        (b"https://host", "/"),
        (b"http://host?x=1/2", "/?x=1/2"),
        (b"*", "*"),
        (b"/redirect?to=http://host/a", "/redirect?to=http://host/a"),
    ],
)
def test_origin_form_drops_scheme_and_host(target: bytes, form: str) -> None:
    """A proxy-style target means the same path as a plain one."""
    assert origin_form(target) == form


def test_messages_find_headers_by_name() -> None:
    """Headers are looked up by lower-case name; the first of a kind counts."""
    fields = [(b"a", b"1"), (b"content-type", b"text/html"), (b"a", b"2")]
    assert HttpRequest("GET", "/x?y", fields).header(b"a") == "1"
    assert HttpRequest("GET", "/x?y", fields).header(b"b") is None
    assert HttpRequest("GET", "/x?y", fields).path == "/x"
    assert HttpResponse(200, fields, b"").content_type == "text/html"
    assert HttpResponse(200, [], b"").content_type == ""
    assert HttpResponse(503, [(b"retry-after", b"7")], b"").retry_after == 7.0
    dates = [(b"date", b"Mon, 12 Jan 1970 13:46:40 GMT"),
             (b"retry-after", b"Mon, 12 Jan 1970 13:47:00 GMT")]  # fmt: skip
    assert HttpResponse(503, dates, b"").retry_after == 20.0  # by the server's clock


def test_error_reply_has_the_shape_clients_parse() -> None:
    """An error is JSON with OpenAI's four fields."""
    reply = error_reply(401, "no", "authentication_error")
    assert (reply.status, reply.content_type) == (401, "application/json")
    assert reply.body == (
        b'{"error":{"message":"no","type":"authentication_error","param":null,"code":null}}'
    )
