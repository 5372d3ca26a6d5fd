"""The front of a deployment job: every request reaches the endpoint that it is for, as it is."""

from __future__ import annotations

import asyncio

import pytest

from evalhpc.gateway.front import Front
from evalhpc.http.errors import FailureKind, TransportError
from evalhpc.http.messages import JSON, HttpReply, HttpRequest, HttpResponse
from evalhpc.worker.replies import classify


class Endpoint:
    """Says who it is and what it was asked, or fails."""

    def __init__(self, name: str, error: TransportError | None = None) -> None:
        self.name = name
        self.error = error
        self.front: Front | None = None
        self.busy = 0

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        self.busy = 0 if self.front is None else self.front.busy
        if self.error is not None:
            raise self.error
        said = f"{self.name} {method} {target} {content_type} {body.decode()}"
        fields = [(b"content-type", b"text/event-stream"), (b"retry-after", b"7")]
        return HttpResponse(429, fields, said.encode())

    async def close(self) -> None:
        """Nothing is kept."""


def sent(front: Front, target: str, content_type: bytes = b"application/json") -> HttpReply:
    request = HttpRequest("POST", target, [(b"content-type", content_type)], b"{}")

    async def main() -> HttpReply:
        return await front(request)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/v1/completions", "model POST /completions"),
        ("/v1/chat/completions?x=1", "model POST /chat/completions?x=1"),
        ("/judge/v1/completions", "judge POST /completions"),
    ],
)
def test_a_request_reaches_its_endpoint_unchanged(target: str, said: str) -> None:
    """Status, body, content type and Retry-After come back as they were."""
    front = Front({"model": Endpoint("model"), "judge": Endpoint("judge")})
    reply = sent(front, target)
    assert reply.status == 429
    assert bytes(reply.body).startswith(said.encode())
    assert reply.content_type == "text/event-stream"
    assert ("retry-after", "7") in reply.headers


@pytest.mark.parametrize("target", ["/", "/v1", "/nobody/v1/completions", "/judge/completions"])
def test_an_unknown_endpoint_is_a_404(target: str) -> None:
    """And no request of any server."""
    front = Front({"model": Endpoint("model"), "judge": Endpoint("judge")})
    assert sent(front, target).status == 404
    assert front.busy == 0


def test_an_answer_beyond_all_measure_is_not_asked_for_again() -> None:
    """The shard learns that this request failed for good, as if it had asked the server itself."""
    error = TransportError("too_large", "sends 10 GB", transient=False)
    reply = sent(Front({"model": Endpoint("model", error)}), "/v1/completions")
    kind = classify("POST", "/completions", reply.status, reply.content_type, bytes(reply.body))
    assert kind == "failed"


@pytest.mark.parametrize(("kind", "status"), [("timeout", 504), ("refused", 502)])
def test_a_server_that_does_not_answer_is_to_be_asked_again(kind: FailureKind, status: int) -> None:
    """502 and 504 are transient to a worker; nothing stays in work."""
    model = Endpoint("model", TransportError(kind, "gone"))
    front = Front({"model": model})
    model.front = front
    assert sent(front, "/v1/completions").status == status
    assert (model.busy, front.busy, front.requests) == (1, 0, 1)
