"""Several servers of one model seen as one client; and a limit to the rate of requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from evalhpc.http.messages import JSON, HttpResponse

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter


class Client(Protocol):
    """What a worker asks: HttpClient, or one of these around it."""

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        """One exchange; raises TransportError."""

    async def close(self) -> None:
        """Close idle connections."""


class BalancedClient:
    """Each request goes to the copy that has the fewest in work, to each in turn where equal."""

    def __init__(self, clients: Sequence[Client]) -> None:
        if not clients:
            raise ValueError("there is no copy to ask")
        self._clients = clients
        self._busy = [0] * len(clients)
        self._last = -1

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        """One exchange with one of them; raises TransportError."""
        chosen = self._last = self._least_busy()
        self._busy[chosen] += 1
        try:
            return await self._clients[chosen].request(method, target, body, content_type)
        finally:
            self._busy[chosen] -= 1

    async def close(self) -> None:
        """Close them all."""
        for client in self._clients:
            await client.close()

    def _least_busy(self) -> int:
        count = len(self._busy)
        in_turn = ((self._last + step) % count for step in range(1, count + 1))
        return min(in_turn, key=self._busy.__getitem__)


class LimitedClient:
    """At most so many requests a minute, evenly spread: whoever asks awaits `admit` before each.

    Apart from `request`, so that nobody takes the wait for the server's latency.
    """

    def __init__(self, client: Client, per_minute: float) -> None:
        from aiolimiter import AsyncLimiter  # start-up time

        self._client = client
        # One at a time: a burst of a minute's worth is what such limits are there against.
        self._limiter: AsyncLimiter = AsyncLimiter(1, 60.0 / per_minute)

    async def admit(self) -> None:
        """Return when the next request may be sent; in the order of the calls."""
        await self._limiter.acquire()

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        """One exchange, for which `admit` was awaited; raises TransportError."""
        return await self._client.request(method, target, body, content_type)

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()
