"""The limit on requests in flight finds what a server bears, in simulated time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.worker.pace import START, Pace

#: (generator, answers given so far) → seconds of work.
Service = Callable[[random.Random, int], float]


def steady(_random: random.Random, _done: int) -> float:
    """Every request is the same work."""
    return 1.0


def lognormal(random_: random.Random, _done: int) -> float:
    """Some requests are ten times the work of others."""
    return random_.lognormvariate(0, 1)


def pareto(random_: random.Random, _done: int) -> float:
    """So heavy a tail that the variance is infinite."""
    return random_.paretovariate(1.2)


class Server:
    """Works on `slots` requests at once and queues the rest; refuses beyond `most`, and in a storm.

    `run` is a closed loop that keeps as many in flight as the pace allows.
    """

    def __init__(self, pace: Pace, service: Service, slots: int, most: int = 10**9) -> None:
        self.pace, self.now, self.limits = pace, 0.0, [pace.limit]
        self.storm = False
        self._service, self._slots, self._most = service, slots, most
        self._random = random.Random(1)
        self._busy = self._done = 0
        self._queue: deque[float] = deque()
        self._events: list[tuple[float, int, bool, float]] = []  # end, number, answered, start
        self._numbers = count()

    def run(self, events: int) -> list[int]:
        """The limit after each of so many further answers and refusals."""
        for _ in range(events):
            while self.pace.in_flight < self.pace.limit:
                self._send()
            self.now, _, answered, started = heappop(self._events)
            if answered:
                self._end(started)
            else:
                self.pace.overloaded(started, self.now)
            self.pace.in_flight -= 1
            self.limits.append(self.pace.limit)
        return self.limits[-events:]

    def _send(self) -> None:
        self.pace.in_flight += 1
        if self.storm or self.pace.in_flight > self._most:
            self._push(0.05, False, self.now)
        elif self._busy < self._slots:
            self._work(self.now)
        else:
            self._queue.append(self.now)

    def _work(self, started: float) -> None:
        self._busy += 1
        self._push(self._service(self._random, self._done), True, started)

    def _end(self, started: float) -> None:
        self._done += 1
        self._busy -= 1
        self.pace.answered(started, self.now)
        if self._queue:
            self._work(self._queue.popleft())

    def _push(self, seconds: float, answered: bool, started: float) -> None:
        heappush(self._events, (self.now + seconds, next(self._numbers), answered, started))


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.integers(0, 300)), max_size=400),
)
def test_the_limit_stays_between_one_and_the_ceiling(
    ceiling: int, events: list[tuple[bool, float, int]]
) -> None:
    """Whatever the server does."""
    pace, now = Pace(ceiling), 0.0
    for answered, latency, pace.in_flight in events:
        now += 1.0
        (pace.answered if answered else pace.overloaded)(now - latency, now)
        assert 1 <= pace.limit <= ceiling


@pytest.mark.parametrize("service", [steady, lognormal, pareto])
def test_a_server_that_keeps_up_gets_all_that_is_allowed(service: Service) -> None:
    """Without a knee the ceiling is reached within a few round trips, heavy tails or not."""
    server = Server(Pace(256), service, slots=10_000)
    assert server.limits[0] == START
    assert max(server.run(600)) == 256
    limits = server.run(5000)
    assert sum(limits) / len(limits) > 0.8 * 256


@pytest.mark.parametrize("service", [steady, lognormal])
@pytest.mark.parametrize("knee", [16, 40, 100])
def test_the_knee_is_found(knee: int, service: Service) -> None:
    """Beyond it requests only queue: the server stays busy, and the queue short."""
    server = Server(Pace(512), service, slots=knee)
    server.run(4000)
    limits = server.run(4000)
    assert knee < sum(limits) / len(limits) < 3 * knee
    assert min(limits) > knee / 2


def test_refusals_keep_the_limit_near_what_is_accepted() -> None:
    """A server that answers 429 beyond 40 gets between half of that and little more."""
    server = Server(Pace(256), lognormal, slots=1000, most=40)
    server.run(2000)
    limits = server.run(2000)
    assert min(limits) >= 19
    assert max(limits) <= 44


def test_a_storm_passes() -> None:
    """While nothing gets through one request probes; then most of the old limit is back soon."""
    server = Server(Pace(256), lognormal, slots=1000)
    server.run(2000)
    server.storm = True
    while server.pace.limit > 1:
        server.run(1)
    server.run(50)
    assert server.pace.limit == 1
    server.storm = False
    assert max(server.run(500)) >= 128
    assert max(server.run(8000)) == 256


def test_refusals_of_one_moment_count_once() -> None:
    """Of a hundred requests that were in flight at a refusal, the others say nothing new."""
    pace = Pace(256)
    for number in range(100):
        pace.overloaded(started=1.0, now=2.0 + number / 100)
    assert pace.limit == START // 2


def test_slower_work_is_not_taken_for_overload() -> None:
    """Where a back-off only costs throughput, the limit goes back to where it was."""
    server = Server(
        Pace(256), lambda r, done: lognormal(r, done) * (100 if done > 2000 else 1), 999
    )
    server.run(6000)
    limits = server.run(2000)
    assert 128 in server.limits[2000:]
    assert sum(limits) / len(limits) > 0.8 * 256


def test_a_fixed_pace_never_moves() -> None:
    """`run.adaptive: false` is the number itself."""
    server = Server(Pace(64, adaptive=False), lognormal, slots=4, most=50)
    assert set(server.run(2000)) == {64}


def test_an_idle_worker_learns_nothing() -> None:
    """With few requests in flight, good answers are no reason to allow more."""
    pace = Pace(256)
    for number in range(1000):
        pace.in_flight = 2
        pace.answered(float(number), number + 1.0)
    assert pace.limit == START
