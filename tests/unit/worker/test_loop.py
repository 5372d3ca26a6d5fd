"""The worker asks each request until it has an answer, and records nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest

from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import Unit
from evalhpc.errors import EndpointError
from evalhpc.http.client import HttpClient
from evalhpc.http.errors import TransportError
from evalhpc.http.messages import HttpResponse
from evalhpc.worker.asking import Asker, RetryPolicy
from evalhpc.worker.dialects import DIALECTS
from evalhpc.worker.loop import WorkCounts, Worker

OK = b'{"choices":[{}]}'
Reply = HttpResponse | Exception


def response(status: int, body: bytes = OK, retry_after: float | None = None) -> HttpResponse:
    fields = [(b"content-type", b"application/json")]
    if retry_after is not None:
        fields.append((b"retry-after", str(retry_after).encode()))
    return HttpResponse(status, fields, body)


class FakeClient(HttpClient):
    """Answers from a script instead of a socket, and remembers what was in flight."""

    def __init__(self, script: Callable[[bytes], Iterator[Reply]]) -> None:
        self._script = script
        self._replies: dict[bytes, Iterator[Reply]] = {}
        self.asked: list[bytes] = []
        self.in_flight = self.most_in_flight = 0

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = ""
    ) -> HttpResponse:
        self.asked.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        reply = next(self._replies.setdefault(body, self._script(body)))
        if isinstance(reply, Exception):
            raise reply
        return reply


class FakeUnits:
    """Units of two requests each, in memory."""

    def __init__(self, bodies: list[bytes]) -> None:
        self.waiting = [bodies[i : i + 2] for i in range(0, len(bodies), 2)]
        self.settled: list[int] = []
        self.taken = 0

    async def take(self) -> tuple[Unit, list[Request]] | None:
        if not self.waiting:
            return None
        bodies = self.waiting.pop(0)
        unit = Unit(id=self.taken, start=0, end=0, count=len(bodies), benchmark="b")
        self.taken += 1
        return unit, [Request(b, "b", "model", "POST", "/completions", b) for b in bodies]

    async def settle(self, unit: Unit) -> None:
        self.settled.append(unit.id)


class Bench:
    """A worker over fakes; its pauses are remembered, not slept."""

    def __init__(self, bodies: list[bytes], script: Callable[[bytes], Iterator[Reply]]) -> None:
        self.client, self.units = FakeClient(script), FakeUnits(bodies)
        self.recorded: dict[bytes, Answer] = {}
        self.counts = WorkCounts()
        self.worker = Worker(
            self.client, self.units, self.recorded.__setitem__, self.counts,
            concurrency=3, policy=RetryPolicy(retries=3, pause=0.001),
        )  # fmt: skip

    def run(self) -> None:
        asyncio.run(self.worker.run())


def always(reply: Reply) -> Callable[[bytes], Iterator[Reply]]:
    def script(_body: bytes) -> Iterator[Reply]:
        while True:
            yield reply

    return script


BODIES = [b"a", b"b", b"c", b"d", b"e"]


def test_every_request_is_asked_once_and_every_unit_settled() -> None:
    """The plain path: nothing twice, nothing left."""
    bench = Bench(BODIES, always(response(200)))
    bench.run()
    assert sorted(bench.client.asked) == BODIES == sorted(bench.recorded)
    assert sorted(bench.units.settled) == [0, 1, 2]
    assert bench.counts.answered == 5
    assert bench.client.most_in_flight <= 3


def test_transient_replies_are_asked_again_and_never_recorded() -> None:
    """A 500, a reset and a busy server cost retries, not answers."""

    def script(_body: bytes) -> Iterator[Reply]:
        yield response(500)
        yield TransportError("reset", "connection reset")
        yield response(429, retry_after=0.0)
        yield response(200, b'{"choices":[{"index":0}]}')

    bench = Bench([b"a"], script)
    bench.run()
    assert bench.recorded[b"a"].body == b'{"choices":[{"index":0}]}'
    assert bench.recorded[b"a"].attempts == 4
    assert bench.counts.retried == 3


def test_a_request_that_fails_for_good_is_given_up_and_listed() -> None:
    """It stays missing: the unit settles, the failure is named, no answer is made up."""
    bench = Bench([b"a", b"b"], always(response(500, b'{"error":"oom"}')))
    bench.run()
    assert bench.recorded == {}
    assert sorted(f.key for f in bench.counts.failures) == [b"a", b"b"]
    assert {f.reason for f in bench.counts.failures} == {"HTTP 500: oom"}
    assert len(bench.client.asked) == 2 * (1 + 3)
    assert bench.units.settled == [0]


def test_a_deterministic_refusal_is_an_answer() -> None:
    """Context too long is what an unsharded run would have got, too."""
    bench = Bench([b"a"], always(response(400, b'{"error":"too long"}')))
    bench.run()
    assert bench.recorded[b"a"].status == 400
    assert len(bench.client.asked) == 1


def test_a_denial_ends_the_worker_at_once() -> None:
    """A wrong key is wrong for every request."""
    bench = Bench(BODIES, always(response(401, b"{}")))
    with pytest.raises(EndpointError, match="denies"):
        bench.run()
    assert bench.recorded == {}
    assert len(bench.client.asked) <= 3


def test_a_server_that_is_gone_ends_the_worker() -> None:
    """Refused connections in a row are a dead server, not a busy one."""
    refused = TransportError("refused", "connection refused")
    bench = Bench([bytes([n]) for n in range(100)], always(refused))
    with pytest.raises(EndpointError, match="is gone"):
        bench.run()
    assert bench.recorded == {}
    assert len(bench.client.asked) < 100


def test_a_stopped_worker_takes_nothing_more() -> None:
    """What was in flight ends; its answers are recorded; the rest stays for others."""
    bench: Bench

    def script(_body: bytes) -> Iterator[Reply]:
        bench.worker.stop()
        yield response(200)

    bench = Bench(BODIES, script)
    bench.run()
    assert set(bench.recorded) == set(bench.client.asked)
    assert len(bench.recorded) < len(BODIES)


@pytest.mark.parametrize("requests", [2, 100])
def test_a_server_that_ends_with_the_job_fails_nothing(requests: int) -> None:
    """Slurm ends both side by side: what was in flight is dropped, and its unit stays open."""
    bench: Bench

    def script(_body: bytes) -> Iterator[Reply]:
        bench.worker.stop()
        while True:
            yield TransportError("refused", "connection refused")

    bench = Bench([bytes([number]) for number in range(requests)], script)
    bench.run()
    assert bench.counts.failures == []
    assert bench.units.settled == []
    assert bench.recorded == {}


class SlowUnits(FakeUnits):
    """Units that lanes wait for, and the worker that takes them."""

    worker: Worker

    async def take(self) -> tuple[Unit, list[Request]] | None:
        await asyncio.sleep(0)
        return await super().take()

    async def worked(self, client: FakeClient, lanes: int) -> WorkCounts:
        """What a worker did; fails if it hangs."""
        counts = WorkCounts()
        self.worker = Worker(client, self, lambda *_: None, counts, concurrency=lanes)
        await asyncio.wait_for(self.worker.run(), 10)
        return counts


def test_lanes_without_work_take_the_next_unit() -> None:
    """Eight lanes have eight requests in flight, although a unit has two."""

    class Gathering(FakeClient):
        """Answers nothing before eight have asked."""

        async def request(
            self, method: str, target: str, body: bytes = b"", content_type: str = ""
        ) -> HttpResponse:
            reply = await super().request(method, target, body, content_type)
            while len(self.asked) < 8:
                await asyncio.sleep(0.001)
            return reply

    units = SlowUnits([bytes([number]) for number in range(8)])
    client = Gathering(always(response(200)))
    assert asyncio.run(units.worked(client, lanes=8)).answered == 8
    assert sorted(units.settled) == [0, 1, 2, 3]


def test_lanes_that_wait_for_a_unit_end_with_a_stop() -> None:
    """A stop ends the lanes that wait, also just before those that got work wake."""

    class Stopping(SlowUnits):
        async def take(self) -> tuple[Unit, list[Request]] | None:
            taken = await super().take()
            asyncio.get_running_loop().call_soon(self.worker.stop)
            return taken

    units = Stopping(BODIES)
    client = FakeClient(always(response(200)))
    assert asyncio.run(units.worked(client, lanes=8)).answered == 1


def test_a_request_in_parts_has_one_answer() -> None:
    """A part that fails is asked again alone; the rest is asked once."""
    failed: list[bytes] = []

    def script(body: bytes) -> Iterator[Reply]:
        if b'"b"' in body and not failed:
            failed.append(body)
            yield response(500)
        prompt = json.loads(body)["prompt"]
        while True:
            yield response(200, json.dumps({"choices": [{"text": prompt * 2}]}).encode())

    body = b'{"prompt":["a","b","c"],"max_tokens":2,"temperature":0}'
    client = FakeClient(script)
    policy = RetryPolicy(retries=3, pause=0.001)
    asker = Asker(client, 1, policy, dialect=DIALECTS["export-deploy"])
    request = Request(b"k", "b", "model", "POST", "/completions", body)
    answer = asyncio.run(asker.ask(request))
    choices = json.loads(answer.body)["choices"]
    assert [choice["text"] for choice in choices] == ["aa", "bb", "cc"]
    assert answer.attempts == 2
    assert len(client.asked) == 4
