"""The worker: takes units, keeps requests in flight, hands every answer to the journal."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import Unit
from evalhpc.errors import EndpointError
from evalhpc.http.balanced import Client
from evalhpc.worker.asking import Asker, Fault, RetryPolicy, Unanswered
from evalhpc.worker.dialect import Dialect


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
    concurrency: int = 0  # requests that may be in flight now
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
        client: Client,
        units: Units,
        record: Callable[[bytes, Answer], None],
        counts: WorkCounts,
        *,
        concurrency: int,
        policy: RetryPolicy | None = None,
        adaptive: bool = True,
        one_sampling_config: bool = False,
        dialect: Dialect | None = None,
    ) -> None:
        """At most `concurrency` requests are in flight; of one sampling configuration, if so."""
        self.counts = counts
        asker = Asker(
            client,
            concurrency,
            policy or RetryPolicy(),
            adaptive=adaptive,
            one_sampling_config=one_sampling_config,
            dialect=dialect,
        )
        self.asker = asker
        self._ask = asker.ask_in_turn if one_sampling_config else asker.ask
        self._lanes = 0  # each has one request in work
        self._tasks: set[asyncio.Task[None]] = set()  # theirs
        self._ended: asyncio.Future[None] | None = None  # every lane has, or one has failed
        self._counted_limit = self._counted_retries = 0  # our share of the counts
        self._units = units
        self._record = record
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
        self._ended = asyncio.get_running_loop().create_future()
        self._resize()
        try:
            await self._ended
        finally:
            self._count_limit(0)
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _resize(self) -> bool:
        """Open lanes up to the limit; False if the calling one is beyond it, and ends."""
        limit = self.asker.pace.limit
        self._count_limit(limit)
        if self._lanes > limit:
            self._lanes -= 1
            return False
        while self._lanes < limit and (self._queue or not self._exhausted):
            self._lanes += 1
            task = asyncio.create_task(self._lane())
            self._tasks.add(task)
            task.add_done_callback(self._lane_ended)
        return True

    def _count_limit(self, limit: int) -> None:
        self.counts.concurrency += limit - self._counted_limit
        self._counted_limit = limit

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._ended is None or self._ended.done():
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._ended.set_exception(error)
        elif not self._tasks:
            self._ended.set_result(None)

    async def _lane(self) -> None:
        pace = self.asker.pace
        while not self._stopping:
            item = await self._next()
            if item is None:
                return
            open_unit, request = item
            if not await self._answer(request):
                return
            open_unit.left -= 1
            if open_unit.left == 0:
                await self._units.settle(open_unit.unit)
                self.counts.units += 1
            if self._lanes != pace.limit and not self._resize():
                return

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

    async def _answer(self, request: Request) -> bool:
        """Ask, and record what came of it; False if the server ended because the job is to end.

        Slurm ends them side by side: the request is nobody's failure, and its unit stays open.
        """
        try:
            answer = await self._ask(request)
        except Unanswered as error:
            if self._stopping and error.fault == "unreachable":
                return False
            failure = Failure(request.key, request.benchmark, error.what, error.fault)
            self.counts.failures.append(failure)
            return True
        except EndpointError:
            if self._stopping:
                return False
            raise
        finally:
            self.counts.retried += self.asker.retried - self._counted_retries
            self._counted_retries = self.asker.retried
        self._record(request.key, answer)
        self.counts.answered += 1
        return True
