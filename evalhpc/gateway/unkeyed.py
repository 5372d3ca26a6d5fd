"""Keeps a harness's keys out of its requests, which are planned, journalled and certified."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from evalhpc.core.masking import SHORTEST_IN_DATA, Mask
from evalhpc.http.messages import HttpReply, HttpRequest

Handler = Callable[[HttpRequest], "HttpReply | Awaitable[HttpReply]"]


class Unkeyed:
    """Masks secrets in target and body before the handler sees a request.

    A harness that sends its key in the URL or the body would have it written down; and since each
    pass has a key of its own, its requests would never be the same twice.
    """

    def __init__(self, handler: Handler, secrets: Collection[str]) -> None:
        self._handler = handler
        self._mask = Mask(secrets, shortest=SHORTEST_IN_DATA)
        # For speed only the values themselves: nobody encodes a key into a prompt.
        self._values = [
            value.encode("utf-8", "surrogateescape")
            for value in secrets
            if len(value) >= SHORTEST_IN_DATA
        ]

    def __call__(self, request: HttpRequest) -> HttpReply | Awaitable[HttpReply]:
        """Answer one request."""
        target = request.target.encode("latin-1", "replace")
        if any(value in request.body or value in target for value in self._values):
            request.body = self._mask.bytes(request.body)
            request.target = self._mask.text(request.target)
        return self._handler(request)
