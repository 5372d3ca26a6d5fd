"""Requests of two sampling configurations are never in flight together, and none is forgotten."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import Unit
from evalhpc.http.client import HttpClient
from evalhpc.http.errors import TransportError
from evalhpc.http.messages import HttpResponse
from evalhpc.worker.asking import Asker, RetryPolicy
from evalhpc.worker.loop import WorkCounts, Worker
from evalhpc.worker.turns import Turns

#: For each request its configuration, the loop's turns that it takes, and whether it fails once.
PLANS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans()), min_size=1, max_size=40
)
Plan = list[tuple[int, int, bool]]


class MixingFails(HttpClient):
    """Remembers the order of requests; fails if those in flight differ in temperature."""

    def __init__(self, plan: Plan) -> None:
        self.asked: list[int] = []
        self._plan = plan
        self._failed: set[int] = set()
        self._in_flight: list[int] = []

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = ""
    ) -> HttpResponse:
        number = int(body.split(b'"')[3])
        config, turns, fails = self._plan[number]
        self._in_flight.append(config)
        assert len(set(self._in_flight)) == 1
        for _ in range(turns):
            await asyncio.sleep(0)
        self._in_flight.remove(config)
        if fails and number not in self._failed:
            self._failed.add(number)
            raise TransportError("reset", "connection reset")
        self.asked.append(number)
        return HttpResponse(200, [(b"content-type", b"application/json")], b'{"choices":[{}]}')


class OneUnit:
    """A unit of everything."""

    def __init__(self, requests: list[Request]) -> None:
        self._units = [requests]

    async def take(self) -> tuple[Unit, list[Request]] | None:
        if not self._units:
            return None
        requests = self._units.pop()
        return Unit(id=0, start=0, end=0, count=len(requests), benchmark="b"), requests

    async def settle(self, unit: Unit) -> None:
        """Nothing to keep."""


def requests_of(plan: Plan) -> list[Request]:
    bodies = [
        b'{"prompt":"%d","temperature":%d}' % (number, config)
        for number, (config, *_) in enumerate(plan)
    ]
    return [Request(body, "b", "model", "POST", "/completions", body) for body in bodies]


@given(PLANS, st.integers(1, 12))
def test_a_worker_never_mixes_configurations(plan: Plan, concurrency: int) -> None:
    """All are answered, whatever their order, how long they take, and which are retried."""
    recorded: dict[bytes, Answer] = {}
    worker = Worker(
        MixingFails(plan), OneUnit(requests_of(plan)), recorded.__setitem__, WorkCounts(),
        concurrency=concurrency, policy=RetryPolicy(pause=0.0), one_sampling_config=True,
    )  # fmt: skip
    asyncio.run(asyncio.wait_for(worker.run(), 10))
    assert len(recorded) == len(plan)


@given(PLANS)
def test_callers_of_their_own_never_mix_them_either(plan: Plan) -> None:
    """A harness whose requests are forwarded as they come: all at once."""

    async def forward() -> list[Answer]:
        policy = RetryPolicy(pause=0.0)
        asker = Asker(MixingFails(plan), 3, policy, one_sampling_config=True)
        return await asyncio.gather(*map(asker.ask_in_turn, requests_of(plan)))

    assert len(asyncio.run(asyncio.wait_for(forward(), 10))) == len(plan)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=30), st.integers(1, 5))
def test_turns_keep_their_order_through_cancellations(
    plan: list[tuple[int, bool]], limit: int
) -> None:
    """Who is cancelled in line or inside makes room; the others come in as they lined up."""
    inside, order = [], []

    async def caller(turns: Turns, number: int, config: int) -> None:
        await turns.enter(bytes([config]))
        order.append(number)
        inside.append(config)
        try:
            assert len(inside) <= limit
            assert len(set(inside)) == 1
            await asyncio.sleep(0)
        finally:
            inside.remove(config)
            turns.leave()

    async def all_of_them() -> None:
        turns = Turns(lambda: limit)
        tasks = [
            asyncio.create_task(caller(turns, number, config))
            for number, (config, _) in enumerate(plan)
        ]
        await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, plan, strict=True):
            if cancelled:
                task.cancel()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert not [error for error in ended if isinstance(error, AssertionError)]

    asyncio.run(all_of_them())
    assert order == sorted(order)
    assert {number for number, (_, cancelled) in enumerate(plan) if not cancelled} <= set(order)
