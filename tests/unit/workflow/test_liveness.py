"""Canaries and watches: a dead server is found out soon, and a busy one is left in peace."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from evalhpc.core.identity import Request
from evalhpc.errors import EndpointError
from evalhpc.http.client import HttpClient
from evalhpc.http.messages import HttpResponse
from evalhpc.worker.asking import Asker, RetryPolicy
from evalhpc.worker.dialects import DIALECTS
from evalhpc.workflow.serve import liveness
from evalhpc.workflow.serve.liveness import Canary, watched, while_alive

EVERY = 0.02
PROBE = Request(bytes(20), "canary", "model", "POST", "/completions",
                b'{"prompt":"Hello","max_tokens":1,"temperature":0}')  # fmt: skip
GOOD = HttpResponse(200, [(b"content-type", b"application/json")], b'{"choices":[{"text":"a"}]}')


class Server(HttpClient):
    """Answers as it is told to; remembers paths and bodies, and what was in flight together."""

    def __init__(self, answer: Callable[[bytes], Awaitable[HttpResponse]]) -> None:
        self._answer = answer
        self.asked: list[tuple[str, bytes]] = []
        self.in_flight: list[float] = []
        self.mixed = False

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = ""
    ) -> HttpResponse:
        self.asked.append((target, body))
        temperature = json.loads(body)["temperature"]
        self.in_flight.append(temperature)
        self.mixed |= len(set(self.in_flight)) > 1
        try:
            return await self._answer(body)
        finally:
            self.in_flight.remove(temperature)


async def good(_body: bytes) -> HttpResponse:
    return GOOD


async def failing(_body: bytes) -> HttpResponse:
    return HttpResponse(500, [], b'{"error":"CUDA error"}')


async def limited(_body: bytes) -> HttpResponse:
    return HttpResponse(429, [], b'{"error":"slow down"}')


async def hanging(_body: bytes) -> HttpResponse:
    await asyncio.sleep(600)
    return GOOD


def asker(server: Server, *, one_config: bool = False, dialect: str = "openai") -> Asker:
    """One without retries, in front of `server`."""
    policy = RetryPolicy(retries=0)
    return Asker(server, 4, policy, one_sampling_config=one_config, dialect=DIALECTS[dialect])


def canary(of: Asker, patience: float = EVERY) -> Canary:
    return Canary("model", of, PROBE, every=EVERY, patience=patience)


async def for_a_while(watch: Canary, seconds: float = 10 * EVERY) -> None:
    """Watch for so long; returns if the canary lives."""
    try:
        await asyncio.wait_for(watch.watch(), seconds)
    except asyncio.TimeoutError:
        return


def test_a_server_that_answers_lives() -> None:
    """It is asked again and again while nothing else is, and only then."""
    server = Server(good)
    asyncio.run(for_a_while(canary(asker(server))))
    assert len(server.asked) >= 2


@pytest.mark.parametrize(
    ("answer", "why"), [(failing, "HTTP 500: CUDA error"), (hanging, "no reply")]
)
def test_a_server_that_completes_nothing_is_given_up(
    answer: Callable[[bytes], Awaitable[HttpResponse]], why: str
) -> None:
    """After three canaries in vain; the error says what came instead."""
    server = Server(answer)
    # Far enough apart that a busy machine does not run out of time for the third.
    watch = Canary("model", asker(server), PROBE, every=25 * EVERY, patience=EVERY)
    with pytest.raises(EndpointError, match=why) as caught:
        asyncio.run(for_a_while(watch, 60))
    assert "completes nothing" in caught.value.what
    assert len(server.asked) == liveness.MISSES


def test_a_server_that_limits_its_rate_lives() -> None:
    """A 429 comes from a server that is well."""
    server = Server(limited)
    asyncio.run(for_a_while(canary(asker(server))))
    assert len(server.asked) > liveness.MISSES


def test_a_server_that_serves_one_after_another_gets_the_time_of_a_request() -> None:
    """Its canary waits behind whatever is in work, once and long."""
    server = Server(hanging)
    with pytest.raises(EndpointError, match="no reply within"):
        asyncio.run(for_a_while(canary(asker(server), patience=10 * EVERY), 60))
    assert len(server.asked) == 1


def test_answers_to_others_keep_a_server_alive() -> None:
    """While answers come, nothing is sent, and a canary that hangs counts for nothing."""
    server = Server(hanging)
    busy = asker(server)

    async def work() -> None:
        watching = asyncio.create_task(for_a_while(canary(busy), 60))
        for _ in range(40):
            await asyncio.sleep(EVERY / 4)
            busy.last_answer = time.monotonic()
        assert not watching.done()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(work())


def test_a_canary_waits_its_turn() -> None:
    """Where a batch has one sampling configuration, no canary is in flight with another."""

    async def slow(_body: bytes) -> HttpResponse:
        await asyncio.sleep(3 * EVERY)
        return GOOD

    server = Server(slow)
    one = asker(server, one_config=True)
    body = b'{"prompt":"%d","max_tokens":9,"temperature":0.5}'

    async def work() -> None:
        watching = asyncio.create_task(for_a_while(canary(one, patience=60), 60))
        asked = [
            one.ask_in_turn(Request(bytes(20), "b", "model", "POST", "/completions", body % n))
            for n in range(12)
        ]
        await asyncio.gather(*asked)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(work())
    assert not server.mixed
    assert len(server.asked) > 12


def test_a_canary_speaks_the_dialect() -> None:
    """A server that redirects /completions would otherwise answer with 307."""
    server = Server(good)
    asyncio.run(asker(server, dialect="export-deploy").prove(PROBE))
    ((path, body),) = server.asked
    assert path == "/completions/"
    assert json.loads(body)["top_k"] == 1


# --- processes


async def forever() -> None:
    await asyncio.sleep(600)


def test_a_server_that_ends_ends_the_work() -> None:
    """Within a second, with the error that tells why it ended."""
    died = EndpointError("ended (exit code 9)")
    with pytest.raises(EndpointError, match="exit code 9"):
        asyncio.run(while_alive(forever(), lambda: died))


def test_work_that_notices_first_is_told_the_cause() -> None:
    """A refused connection says less than the log of the process that is gone."""

    async def refused() -> None:
        raise EndpointError("connection refused")

    with pytest.raises(EndpointError, match="exit code 9") as caught:
        asyncio.run(while_alive(refused(), lambda: EndpointError("ended (exit code 9)")))
    assert "refused" in str(caught.value.__cause__)
    with pytest.raises(EndpointError, match="refused"):
        asyncio.run(while_alive(refused(), lambda: None))


def test_a_reason_that_comes_a_beat_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to a deployment job fail before its record says why."""
    monkeypatch.setattr(liveness, "LOOK", 0.01)
    looks: list[None] = []

    def death() -> EndpointError | None:
        looks.append(None)
        return EndpointError("CUDA error") if len(looks) >= 5 else None

    async def refused() -> None:
        raise EndpointError("refused")

    with pytest.raises(EndpointError, match="CUDA error"):
        asyncio.run(while_alive(refused(), death))


def test_a_server_that_ends_with_the_whole_job_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The signal that ends it reaches us as well, a little later."""
    monkeypatch.setattr(liveness, "LOOK", 0.01)
    monkeypatch.setattr(liveness, "GRACE", 0.01)
    deaths = iter([EndpointError("ended")])

    async def work() -> str:
        await asyncio.sleep(0.2)
        return "in good order"

    assert asyncio.run(while_alive(work(), lambda: next(deaths, None))) == "in good order"


def test_watches_end_with_the_work() -> None:
    """Nothing is left running, whichever ends first."""
    ended: list[str] = []

    async def watch() -> None:
        try:
            await forever()
        finally:
            ended.append("watch")

    async def quick() -> int:
        await asyncio.sleep(0)
        return 3

    assert asyncio.run(watched(quick(), [watch(), watch()])) == 3
    assert ended == ["watch", "watch"]

    async def failing_watch() -> None:
        raise EndpointError("dead")

    async def long() -> None:
        try:
            await forever()
        finally:
            ended.append("work")

    with pytest.raises(EndpointError, match="dead"):
        asyncio.run(watched(long(), [failing_watch()]))
    assert ended[-1] == "work"
