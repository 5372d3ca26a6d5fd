"""The text around a body: request and reply heads, and the header values that we interpret."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus

_METHOD = re.compile(r"[A-Z]+(-[A-Z]+)?")
_TARGET = re.compile(r"/[!-~\x80-\xff]*")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_SECONDS = re.compile(r"\d{1,9}(\.\d+)?")
#: Replies that end with their head (RFC 9110, section 6.4.1).
BODILESS = frozenset({204, 304})


def field_line(name: str, value: str) -> bytes:
    """`name: value` and its line end; raises ValueError for what would break out of the line."""
    if not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
        raise ValueError(f"not a valid HTTP header: {name!r}")
    return f"{name}: {value}\r\n".encode("latin-1")


@lru_cache(maxsize=1024)
def request_start(method: str, target: str, content_type: str) -> bytes:
    """The request line and, unless empty, Content-Type; raises ValueError if either is unfit."""
    if not _METHOD.fullmatch(method):
        raise ValueError(f"not an HTTP method: {method!r}")
    if not _TARGET.fullmatch(target):
        raise ValueError(
            f"not a request target (it must start with / and hold no blank): {target!r}"
        )
    line = f"{method} {target} HTTP/1.1\r\n".encode("latin-1")
    return line + (field_line("content-type", content_type) if content_type else b"")


@lru_cache(maxsize=1024)
def reply_start(
    status: int, content_type: str, headers: tuple[tuple[str, str], ...], connection: str
) -> bytes:
    """The status line and the fields that do not depend on the body; raises ValueError."""
    if not 200 <= status <= 599:
        raise ValueError(f"not the status of a final reply: {status}")
    lines = [f"HTTP/1.1 {status} {_phrase(status)}\r\n".encode("ascii")]
    if content_type and status not in BODILESS:
        lines.append(field_line("content-type", content_type))
    if connection:
        lines.append(field_line("connection", connection))
    lines.extend(field_line(name, value) for name, value in headers)
    return b"".join(lines)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from `now` (Unix time) that a Retry-After asks for: a number or an HTTP date."""
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until = parse_date(text)
    return None if until is None else max(0.0, until - now)


def parse_date(value: str | None) -> float | None:
    """The Unix time of an HTTP date; None where there is none."""
    try:
        return parsedate_to_datetime((value or "").strip()).timestamp()
    except (ValueError, OverflowError):
        return None


def origin_form(target: bytes) -> str:
    """Path and query of a request target in any form: an absolute one loses scheme and host."""
    text = target.decode("latin-1")
    if text.startswith(("/", "*")):
        return text
    scheme, separator, rest = text.partition("://")
    if not separator or "/" in scheme or "?" in scheme:
        return text
    start = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    path = rest[start:]
    return path if path.startswith("/") else "/" + path
