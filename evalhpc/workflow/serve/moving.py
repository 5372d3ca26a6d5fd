"""A client of one endpoint of deployment jobs: each request goes to the job that is there then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from evalhpc.http.balanced import Client
from evalhpc.http.errors import TransportError
from evalhpc.http.messages import JSON, HttpResponse

#: The server is not there; any other failure may be the request's doing.
_NOBODY = frozenset({"refused", "reset", "unreachable"})


class Whereabouts(Protocol):
    """Where an endpoint is at the moment."""

    def url(self) -> str:
        """Its base URL, which ends in /v1."""

    def moved_from(self, url: str) -> bool:
        """After a failure at `url`: whether requests go to another one from now on."""


class MovingClient:
    """Asks wherever the endpoint is: what is under way stays where it was sent.

    A request that found nobody any more is sent once again where others serve: every job has the
    same model, and no answer had come.
    """

    def __init__(self, where: Whereabouts, connect: Callable[[str], Client]) -> None:
        self._where = where
        self._connect = connect
        self._clients: dict[str, Client] = {}

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        """One exchange; raises TransportError."""
        url = self._where.url()
        try:
            return await self._at(url).request(method, target, body, content_type)
        except TransportError as error:
            if error.kind not in _NOBODY or not self._where.moved_from(url):
                raise
        return await self._at(self._where.url()).request(method, target, body, content_type)

    async def close(self) -> None:
        """Close the connections to all of them."""
        for client in self._clients.values():
            await client.close()

    def _at(self, url: str) -> Client:
        if url not in self._clients:
            self._clients[url] = self._connect(url)
        return self._clients[url]
