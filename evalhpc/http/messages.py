"""What a client and a server exchange: a request, a reply to send, a response received."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import orjson

from evalhpc.http.heads import parse_date, parse_retry_after

#: Fields as they came: (lower-case name, value), in order, repeats kept.
Fields = Sequence[tuple[bytes, bytes]]
JSON = "application/json"


def find_field(fields: Fields, name: bytes) -> bytes | None:
    """The value of the first field of this lower-case name."""
    for key, value in fields:
        if key == name:
            return value
    return None


@dataclass(slots=True)
class HttpRequest:
    """One request as a handler sees it: complete, its body in memory."""

    method: str
    target: str  # path with query; starts with "/" (or is "*", for OPTIONS)
    headers: Fields = ()
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: bytes) -> str | None:
        """The first header of this lower-case name."""
        value = find_field(self.headers, name)
        return None if value is None else value.decode("latin-1")


@dataclass(slots=True)
class HttpReply:
    """What a handler answers with: a body, or a stream of pieces sent as they come."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    stream: AsyncIterator[bytes] | None = None  # instead of body


@dataclass(slots=True)
class HttpResponse:
    """What a server answered: complete, its body in memory."""

    status: int
    headers: Fields
    body: bytes

    def header(self, name: bytes) -> str | None:
        """The first header of this lower-case name."""
        value = find_field(self.headers, name)
        return None if value is None else value.decode("latin-1")

    @property
    def content_type(self) -> str:
        """The Content-Type header, or ""."""
        return self.header(b"content-type") or ""

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait as the server asked, from now; None if it did not.

        A date is held against the server's own clock, where it tells it: ours may be another.
        """
        date = parse_date(self.header(b"date"))
        return parse_retry_after(self.header(b"retry-after"), time.time() if date is None else date)


def error_reply(status: int, message: str, kind: str = "invalid_request_error") -> HttpReply:
    """A refusal in the shape that OpenAI clients parse."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    return HttpReply(status, orjson.dumps({"error": error}))
