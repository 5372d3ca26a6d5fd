"""The worker: takes units, keeps N requests in flight, hands every answer to the journal."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import Unit
from evalhpc.http.client import HttpClient
from evalhpc.worker.asking import Asker, Fault, RetryPolicy, Unanswered


class Units(Protocol):
    """Where units come from and go to (storage, behind the workflow)."""

    async def take(self) -> tuple[Unit, list[Request]] | None:
        """The next unit of ours with its requests, or None when there is none left."""

    async def settle(self, unit: Unit) -> None:
        """Every request of `unit` is answered or given up: make that durable."""


@dataclass(frozen=True)
class Failure:
    """A request that was given up; it is not an answer and is still missing."""

    key: bytes
    benchmark: str
    reason: str
    fault: Fault = "transient"


@dataclass
class WorkCounts:
    """What a worker has done so far."""

    answered: int = 0
    retried: int = 0
    units: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass
class _Open:
    """A unit in work: how many of its requests are still open."""

    unit: Unit
    left: int


class Worker:
    """Answers units from one endpoint until none is left, it is stopped, or the server is gone."""

    def __init__(
        self,
        client: HttpClient,
        units: Units,
        record: Callable[[bytes, Answer], None],
        counts: WorkCounts,
        *,
        concurrency: int,
        policy: RetryPolicy | None = None,
    ) -> None:
        self.counts = counts
        self._asker = Asker(client, concurrency, policy or RetryPolicy())
        self._units = units
        self._record = record
        self._concurrency = concurrency
        self._queue: list[tuple[_Open, Request]] = []
        self._taking = False  # a lane is at it
        self._waiting: deque[asyncio.Future[None]] = deque()  # the lanes that it keeps waiting
        self._stopping = False
        self._exhausted = False

    def stop(self) -> None:
        """Take no further request; what is in flight ends by itself."""
        self._stopping = True
        self._wake(len(self._waiting))

    async def run(self) -> None:
        """Work to the end; raises EndpointError when the server denies us or is gone."""
        tasks = [asyncio.create_task(self._lane()) for _ in range(self._concurrency)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _lane(self) -> None:
        while not self._stopping:
            item = await self._next()
            if item is None:
                return
            open_unit, request = item
            await self._answer(request)
            open_unit.left -= 1
            if open_unit.left == 0:
                await self._units.settle(open_unit.unit)
                self.counts.units += 1

    async def _next(self) -> tuple[_Open, Request] | None:
        while not (self._queue or self._exhausted or self._stopping):
            if not self._taking:
                await self._take()
                continue
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        return self._queue.pop() if self._queue and not self._stopping else None

    async def _take(self) -> None:
        """Queue the next unit; where several lanes wait, one more wakes than it has work for."""
        self._taking = True
        taken = await self._units.take()
        self._taking = False
        if taken is None:
            self._exhausted = True
        else:
            unit, requests = taken
            open_unit = _Open(unit, len(requests))
            self._queue.extend((open_unit, request) for request in reversed(requests))
        # This lane has one of the requests, so the last to wake finds none and takes a unit.
        self._wake(len(self._queue) if taken and not self._stopping else len(self._waiting))

    def _wake(self, lanes: int) -> None:
        for _ in range(min(lanes, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    async def _answer(self, request: Request) -> None:
        try:
            answer = await self._asker.ask(request)
        except Unanswered as error:
            failure = Failure(request.key, request.benchmark, error.what, error.fault)
            self.counts.failures.append(failure)
            return
        finally:
            self.counts.retried = self._asker.retried
        self._record(request.key, answer)
        self.counts.answered += 1
