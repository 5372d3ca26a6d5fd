"""Several endpoints behind one port: the model under test, a judge, an embedder."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from evalhpc.gateway.app import API_ROOT, PassGateway
from evalhpc.http.messages import HttpReply, HttpRequest
from evalhpc.models.suite import MODEL_ENDPOINT


def base_path(endpoint: str) -> str:
    """Where an endpoint's API begins: `/v1` for the model under test, `/judge/v1` for a judge."""
    return API_ROOT if endpoint == MODEL_ENDPOINT else f"/{endpoint}{API_ROOT}"


class Switchboard:
    """Hands each request to the gateway of its endpoint, which sees it as if it were alone."""

    def __init__(self, gateways: Mapping[str, PassGateway]) -> None:
        self._model = gateways[MODEL_ENDPOINT]
        self._others = {
            f"/{name}": gateway for name, gateway in gateways.items() if name != MODEL_ENDPOINT
        }

    def __call__(self, request: HttpRequest) -> HttpReply | Awaitable[HttpReply]:
        """Answer one call of the harness."""
        for prefix, gateway in self._others.items():
            if request.target.startswith(prefix + "/"):
                rest = request.target[len(prefix) :]
                return gateway(HttpRequest(request.method, rest, request.headers, request.body))
        return self._model(request)
