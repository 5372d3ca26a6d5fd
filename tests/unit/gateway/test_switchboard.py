"""Several endpoints behind one port, told apart by the first part of the path."""

from __future__ import annotations

import orjson

from evalhpc.core.identity import Request
from evalhpc.gateway.app import PassCounts, PassGateway
from evalhpc.gateway.switchboard import Switchboard, base_path
from evalhpc.http.messages import HttpReply, HttpRequest


def board(misses: list[Request]) -> tuple[Switchboard, PassCounts]:
    """A model and a judge over an empty store."""
    counts = PassCounts()
    gateways = {
        name: PassGateway(
            benchmark="b", endpoint=name, model_id=f"the-{name}", lookup=lambda _key: None,
            record_miss=misses.append, counts=counts,
        )
        for name in ("model", "judge")
    }  # fmt: skip
    return Switchboard(gateways), counts


def test_the_same_question_to_two_endpoints_is_two_requests() -> None:
    """Each is planned for its own endpoint, and both count in one pass."""
    misses: list[Request] = []
    handler, counts = board(misses)
    body = orjson.dumps({"model": "m", "prompt": "Who?"})
    for endpoint in ("model", "judge"):
        handler(HttpRequest("POST", f"{base_path(endpoint)}/completions", body=body))
    assert [(miss.endpoint, miss.path) for miss in misses] == [
        ("model", "/completions"),
        ("judge", "/completions"),
    ]
    assert misses[0].key != misses[1].key
    assert counts.misses == 2


def test_each_endpoint_names_its_own_model() -> None:
    """A client that lists models before it asks gets the name of whom it will ask."""
    handler, _ = board([])
    for endpoint in ("model", "judge"):
        reply = handler(HttpRequest("GET", f"{base_path(endpoint)}/models"))
        assert isinstance(reply, HttpReply)
        assert orjson.loads(reply.body)["data"][0]["id"] == f"the-{endpoint}"
