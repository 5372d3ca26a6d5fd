"""The front of a deployment job: hands each request on to the endpoint it is for."""

from __future__ import annotations

import time
from collections.abc import Mapping

from evalhpc.gateway.app import API_ROOT
from evalhpc.http.balanced import Client
from evalhpc.http.errors import TransportError
from evalhpc.http.messages import JSON, HttpReply, HttpRequest, error_reply
from evalhpc.models.suite import MODEL_ENDPOINT


class Front:
    """Passes requests and replies on as they are, whole; `last_request` is on the monotonic clock.

    `busy` of its `requests` so far have no reply yet.
    A server that does not answer is a 502 or 504, which asks the client to come again; one that
    answers beyond all measure is a 406, which does not.
    """

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = clients
        self.last_request = time.monotonic()
        self.busy = self.requests = 0

    async def __call__(self, request: HttpRequest) -> HttpReply:
        """Answer one request of a shard."""
        self.requests += 1
        name, target = _route(request.target)
        client = self._clients.get(name)
        if client is None or target is None:
            return error_reply(404, f"there is no {request.target} here")
        self.busy += 1
        content_type = request.header(b"content-type") or JSON
        try:
            reply = await client.request(request.method, target, request.body, content_type)
        except TransportError as error:
            status = 504 if error.kind == "timeout" else 502 if error.transient else 406
            return error_reply(status, error.what, "server_error")
        finally:
            self.busy -= 1
            self.last_request = time.monotonic()
        wait = reply.header(b"retry-after")
        headers = () if wait is None else (("retry-after", wait),)
        return HttpReply(reply.status, reply.body, reply.content_type or JSON, headers)


def _route(target: str) -> tuple[str, str | None]:
    """(endpoint, target below its API root): `/v1/x` is the model's, `/judge/v1/x` the judge's."""
    if target.startswith(API_ROOT + "/"):
        return MODEL_ENDPOINT, target[len(API_ROOT) :]
    name, _, rest = target.lstrip("/").partition("/")
    rest = "/" + rest
    return name, rest[len(API_ROOT) :] if rest.startswith(API_ROOT + "/") else None
