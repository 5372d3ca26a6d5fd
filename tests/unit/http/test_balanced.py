"""Several copies as one client, and a limit to the rate of requests."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.identity import Request
from evalhpc.errors import EndpointError
from evalhpc.http.balanced import BalancedClient, LimitedClient
from evalhpc.http.messages import JSON, HttpResponse
from evalhpc.worker.asking import Asker, RetryPolicy

GOOD = HttpResponse(200, [(b"content-type", b"application/json")], b'{"choices":[{"text":"a"}]}')


class Copy:
    """Replies when it is told to, or at once; remembers what it was asked, and the most at once."""

    def __init__(self, *, waits: bool = False, fails: bool = False) -> None:
        self.go = asyncio.Event()
        if not waits:
            self.go.set()
        self.fails = fails
        self.asked: list[str] = []
        self.busy = self.most = 0
        self.closed = False

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        self.asked.append(target)
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await self.go.wait()
        finally:
            self.busy -= 1
        if self.fails:
            raise EndpointError("reset")
        return GOOD

    async def close(self) -> None:
        self.closed = True


@given(copies=st.integers(1, 5), requests=st.integers(0, 40))
def test_copies_have_as_many_in_work_as_the_others(copies: int, requests: int) -> None:
    """However many are asked at once, no copy has two more than another."""

    async def main() -> list[int]:
        servers = [Copy(waits=True) for _ in range(copies)]
        client = BalancedClient(servers)
        tasks = [asyncio.create_task(client.request("GET", "/")) for _ in range(requests)]
        await asyncio.sleep(0)
        busy = [server.busy for server in servers]
        for server in servers:
            server.go.set()
        await asyncio.gather(*tasks)
        return busy

    busy = asyncio.run(main())
    assert sum(busy) == requests
    assert max(busy) - min(busy) <= 1


def test_one_at_a_time_goes_to_each_in_turn() -> None:
    """So that no copy stays cold; failures and cancelled requests are no longer in work."""

    async def main() -> Counter[int]:
        servers = [Copy(), Copy(fails=True), Copy()]
        client = BalancedClient(servers)
        for _ in range(9):
            await asyncio.gather(client.request("GET", "/"), return_exceptions=True)
        await client.close()
        assert all(server.closed for server in servers)
        return Counter(len(server.asked) for server in servers)

    assert asyncio.run(main()) == {3: 3}


def test_a_slow_copy_gets_less() -> None:
    """What is in work counts, not turns."""

    async def main() -> tuple[int, int]:
        slow, fast = Copy(waits=True), Copy()
        client = BalancedClient([slow, fast])
        stuck = [asyncio.create_task(client.request("GET", "/")) for _ in range(2)]
        await asyncio.sleep(0)
        for _ in range(8):
            await client.request("GET", "/")
        counts = len(slow.asked), len(fast.asked)
        slow.go.set()
        await asyncio.gather(*stuck)
        return counts

    slow, fast = asyncio.run(main())
    assert (slow, fast) == (1, 9)


def test_no_copy_is_an_error() -> None:
    """Rather than a client that waits."""
    with pytest.raises(ValueError, match="no copy"):
        BalancedClient([])


def ask(number: int) -> Request:
    return Request(bytes(20), "b", "model", "POST", f"/{number}", b"{}")


def test_a_limited_endpoint_is_asked_in_order_one_turn_each() -> None:
    """Requests wait for their turn before they count as sent: their latency is the server's."""

    async def main() -> tuple[list[str], float, float, int]:
        server, begin = Copy(), time.perf_counter()
        asker = Asker(LimitedClient(server, 60 / 0.02), 8, RetryPolicy(0))
        answers = await asyncio.gather(*(asker.ask(ask(number)) for number in range(10)))
        latency = sum(answer.latency for answer in answers)
        return server.asked, latency, time.perf_counter() - begin, server.most

    asked, latency, elapsed, most = asyncio.run(main())
    assert asked == [f"/{number}" for number in range(10)]
    assert most == 1  # ten that wait are none in work
    assert latency <= elapsed  # one after the other; with their waits it would be five times that


def test_waiting_for_the_limit_is_not_in_flight() -> None:
    """The pace sees an idle server, not a slow one, and never backs off."""

    async def main() -> tuple[int, int]:
        client = LimitedClient(Copy(), 1.0)
        await client.admit()
        asker = Asker(client, 8, RetryPolicy(0))
        limit = asker.pace.limit
        waiting = [asyncio.create_task(asker.ask(ask(number))) for number in range(8)]
        await asyncio.sleep(0.01)
        in_flight = asker.pace.in_flight
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return in_flight, asker.pace.limit - limit

    assert asyncio.run(main()) == (0, 0)
