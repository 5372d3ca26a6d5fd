"""One request until it has an answer: tries, pauses, and when to stop asking at all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from evalhpc.core.identity import Answer, Request
from evalhpc.errors import EndpointError
from evalhpc.http.balanced import Client, LimitedClient
from evalhpc.http.errors import TransportError
from evalhpc.http.messages import HttpResponse
from evalhpc.worker.dialect import Dialect, NoAnswer, OpenAI
from evalhpc.worker.pace import Pace
from evalhpc.worker.replies import classify, describe
from evalhpc.worker.turns import Turns

#: Seconds: the longest pause between two tries, and the longest Retry-After that is obeyed.
LONGEST_PAUSE = 60.0
#: Requests in a row that found nobody listening: the server is gone, not busy.
DEAD_AFTER = 8


@dataclass(frozen=True)
class RetryPolicy:
    """Tries of one request beyond the first, and the first pause in seconds."""

    retries: int = 5
    pause: float = 0.5


#: Why a request was given up. failed: a reply that will not change. transient: the server, which
#: was there, failed or took too long. unreachable: nobody was there; no request's doing.
Fault = Literal["failed", "transient", "unreachable"]
#: Transport failures that may be this request's doing: the server took the connection.
_OF_THE_REQUEST = frozenset({"timeout", "too_large", "protocol"})
#: How a server, or what stands before it, says that it has too much to do.
_OVERLOADED_STATUSES = frozenset({408, 429, 502, 503, 504, 529})
#: How it says that it is well, but that we ask too much.
_LIMITED_STATUSES = frozenset({429, 529})
_OVERLOADED_TRANSPORT = frozenset({"timeout", "reset"})


class Unanswered(EndpointError):
    """No try gave an answer; `wait` is the server's Retry-After in seconds."""

    def __init__(
        self,
        what: str,
        *,
        wait: float | None = None,
        transient: bool = True,
        fault: Fault | None = None,
    ) -> None:
        super().__init__(what, transient=transient)
        self.wait = wait
        self.fault: Fault = fault or ("transient" if transient else "failed")


class Asker:
    """Asks one endpoint, for callers that keep up to `pace.limit` requests in flight.

    `concurrency` is the most that may ever be; where not `adaptive`, it is the limit.
    """

    def __init__(
        self,
        client: Client,
        concurrency: int,
        policy: RetryPolicy,
        *,
        adaptive: bool = True,
        one_sampling_config: bool = False,
        dialect: Dialect | None = None,
    ) -> None:
        self.retried = 0
        self.last_answer = time.monotonic()  # while answers come, the server lives
        self.pace = Pace(concurrency, adaptive=adaptive)
        self._client = client
        self._admit = client.admit if isinstance(client, LimitedClient) else None
        self._policy = policy
        self._one_config = one_sampling_config
        self._dialect = dialect or OpenAI()
        self._turns = Turns(lambda: self.pace.limit)
        self._unreachable = 0

    async def ask_in_turn(self, request: Request) -> Answer:
        """Like `ask`, for callers that do not count: waits until the limit lets it in.

        With `one_sampling_config`, requests of different configurations are never in flight
        together; one between two tries counts as in flight.
        """
        wires = self._dialect.adapt(request)
        await self._turns.enter(self._dialect.turn(wires[0]) if self._one_config else b"")
        try:
            return await self._ask_all(request, wires)
        finally:
            self._turns.leave()

    async def ask(self, request: Request) -> Answer:
        """The answer; Unanswered if this request is given up, EndpointError if all would be."""
        return await self._ask_all(request, self._dialect.adapt(request))

    async def prove(self, request: Request) -> None:
        """Return once the server has answered `request`; EndpointError for any other reply.

        Asked once, in its turn, besides the limit. A server that limits its rate is alive.
        """
        wire = self._dialect.adapt(request)[0]
        if self._one_config:
            await self._turns.enter(self._dialect.turn(wire))
        try:
            reply = await self._client.request(wire.method, wire.path, wire.body)
        finally:
            if self._one_config:
                self._turns.leave()
        kind = classify(wire.method, wire.path, reply.status, reply.content_type, reply.body)
        if kind != "answer" and reply.status not in _LIMITED_STATUSES:
            raise EndpointError(describe(reply.status, reply.body))
        self.last_answer = time.monotonic()

    async def _ask_all(self, request: Request, wires: Sequence[Request]) -> Answer:
        """One after the other, so that a request never counts as two in flight."""
        answers: list[Answer] = []
        for wire in wires:
            answers.append(await self._ask_one(wire))
            if answers[-1].status >= 400:
                break
        try:
            return self._dialect.join(request, answers)
        except NoAnswer as error:
            raise Unanswered(error.what, transient=False) from error

    async def _ask_one(self, request: Request) -> Answer:
        try:
            return await self._ask(request, attempt=1)
        except Unanswered as first:
            return await self._ask_again(request, first)

    async def _ask_again(self, request: Request, first: Unanswered) -> Answer:
        if not first.transient or self._policy.retries == 0:
            raise first
        await asyncio.sleep(_pause(first, self._policy.pause * (1 + random.random())))
        attempts = AsyncRetrying(
            retry=retry_if_exception(lambda e: isinstance(e, Unanswered) and e.transient),
            stop=stop_after_attempt(self._policy.retries),
            wait=self._wait,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                self.retried += 1
                number = attempt.retry_state.attempt_number + 1
                return await self._ask(request, attempt=number)
        raise first  # not reached: the last attempt raises

    def _wait(self, state: RetryCallState) -> float:
        first = 2 * self._policy.pause
        backoff = wait_exponential(multiplier=first, max=LONGEST_PAUSE) + wait_random(0, first)
        failed = state.outcome.exception() if state.outcome else None
        return _pause(failed, backoff(state))

    async def _ask(self, request: Request, *, attempt: int) -> Answer:
        if self._admit is not None:
            await self._admit()  # before the clock starts
        started = time.perf_counter()
        reply = await self._exchange(request, started)
        latency = time.perf_counter() - started
        kind = classify(request.method, request.path, reply.status, reply.content_type, reply.body)
        if kind == "answer":
            self.last_answer = time.monotonic()
            return Answer(reply.status, reply.content_type, reply.body, latency, attempt)
        if kind == "denied":
            raise EndpointError(
                f"the model server denies {request.method} {request.path}: "
                f"{describe(reply.status, reply.body)}",
                cause="a wrong API key, model id or base URL",
                hint="check --endpoint, --model-id and the variable that holds the key",
            )
        raise Unanswered(
            describe(reply.status, reply.body),
            wait=reply.retry_after,
            transient=kind == "transient",
        )

    async def _exchange(self, request: Request, started: float) -> HttpResponse:
        """One reply of whatever kind; the pace learns how it went."""
        pace = self.pace
        pace.in_flight += 1
        try:
            reply = await self._client.request(request.method, request.path, request.body)
            if reply.status < 300:
                pace.answered(started, time.perf_counter())
            elif reply.status in _OVERLOADED_STATUSES:
                pace.overloaded(started, time.perf_counter())
        except EndpointError as error:
            if isinstance(error, TransportError) and error.kind in _OVERLOADED_TRANSPORT:
                pace.overloaded(started, time.perf_counter())
            self._count_unreachable(error)
            raise Unanswered(
                error.what, transient=error.transient, fault=_transport_fault(error)
            ) from error
        finally:
            pace.in_flight -= 1
        self._unreachable = 0
        return reply

    def _count_unreachable(self, error: EndpointError) -> None:
        self._unreachable += 1
        if self._unreachable >= max(DEAD_AFTER, 2 * self.pace.limit):
            raise EndpointError(
                f"the model server is gone: {self._unreachable} requests in a row failed, "
                f"the last with: {error.what}",
                cause="the server process died, or its node did",
                hint="read logs/server-*.log in the run directory, then: evalhpc resume RUN",
            ) from error


def _transport_fault(error: EndpointError) -> Fault:
    of_it = isinstance(error, TransportError) and error.kind in _OF_THE_REQUEST
    if of_it and not error.transient:
        return "failed"
    return "transient" if of_it else "unreachable"


def _pause(error: BaseException | None, backoff: float) -> float:
    asked_for = error.wait if isinstance(error, Unanswered) else None
    return min(LONGEST_PAUSE, max(backoff, asked_for or 0.0))
