"""Whether the servers live while a shard works: their processes, and one real completion now and
then where no answer comes; a health route says yes after the model has died."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from evalhpc.core.identity import KEY_BYTES, Request
from evalhpc.deploy.readiness import smallest_request
from evalhpc.errors import EndpointError
from evalhpc.models.runspec import Served
from evalhpc.worker.asking import Asker

T = TypeVar("T")

#: Seconds between looks at the servers' processes.
LOOK = 0.25
#: Seconds that a signal to the whole job gets to reach us too, once a server has ended.
GRACE = 0.5
#: Seconds that a server that died gets to say why, where its requests failed first.
REASON = 5.0
#: Canaries in a row that may go unanswered.
MISSES = 3
#: Servers that take new requests into a batch that runs: a small one never waits for a large one.
_CONTINUOUS = frozenset({"vllm", "sglang", "trtllm", "nim"})


class Canary:
    """Asks an endpoint for one token where it has answered nothing for `every` seconds.

    `patience`, in seconds: how long one that is busy may take to answer it. A server that works
    off one batch after another gets the time of a whole request.
    """

    def __init__(
        self, name: str, asker: Asker, request: Request, *, every: float, patience: float
    ) -> None:
        self._name = name
        self._asker = asker
        self._request = request
        self._every = every
        self._patience = patience

    async def watch(self) -> None:
        """Run until cancelled; raises EndpointError once the endpoint completes nothing."""
        while True:
            silence = time.monotonic() - self._asker.last_answer
            if silence < self._every:
                await asyncio.sleep(self._every - silence)
            else:
                await self._prove()

    async def _prove(self) -> None:
        since, begin = self._asker.last_answer, time.monotonic()
        for _ in range(MISSES):
            sent = time.monotonic()
            try:
                await _within(self._patience, self._asker.prove(self._request))
                return
            except TimeoutError:
                why = f"no reply within {self._patience:g} s"
            except EndpointError as error:
                why = error.what
            # One that fails at once is asked again when one that hangs would be.
            await asyncio.sleep(max(0.0, sent + self._every - time.monotonic()))
            if self._asker.last_answer > since:
                return
            if time.monotonic() - begin >= MISSES * self._every:
                break
        raise EndpointError(
            f"the server of {self._name!r} completes nothing: its last answer was "
            f"{time.monotonic() - since:.0f} s ago, and it was then asked for one token in vain: "
            f"{why}",
            cause="its model died or hangs behind a port that still listens; a health route does "
            "not show that",
            hint="read the end of its log (evalhpc logs RUN); where single answers take very "
            "long, raise run.canary",
        )


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; TimeoutError after so long. Not wait_for: before Python 3.12 it may swallow a
    cancellation that comes as `work` ends, and a watch would go on for ever."""
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        task.result()
    finally:
        task.cancel()


def canary(
    name: str, served: Served, asker: Asker, *, every: float, request_timeout: float
) -> Canary:
    """The canary of one endpoint, which asks for what its benchmarks ask for."""
    path, body = smallest_request(served.kinds[0], served.model.model_id)
    request = Request(bytes(KEY_BYTES), "canary", name, "POST", path, json.dumps(body).encode())
    continuous = served.deployment.kind in _CONTINUOUS
    patience = every if continuous else max(every, request_timeout)
    return Canary(name, asker, request, every=every, patience=patience)


async def while_alive(main: Coroutine[Any, Any, T], death: Callable[[], EndpointError | None]) -> T:
    """The result of `main`; raises what `death` says of the first server that ended meanwhile."""
    try:
        return await watched(main, [_watch_processes(death)])
    except EndpointError as error:
        # Requests may have noticed first, and know less; a deployment job says it a beat later.
        for _ in range(int(REASON / LOOK)):
            await asyncio.sleep(LOOK)
            if (ended := death()) is not None:
                raise ended from error
        raise


async def _watch_processes(death: Callable[[], EndpointError | None]) -> None:
    while True:
        await asyncio.sleep(LOOK)
        if death() is not None:
            await asyncio.sleep(GRACE)
            if (error := death()) is not None:
                raise error


async def watched(main: Coroutine[Any, Any, T], watches: Iterable[Coroutine[Any, Any, None]]) -> T:
    """The result of `main`; the first watch that raises ends it with that error."""
    working = asyncio.create_task(main)
    watching = [asyncio.create_task(watch) for watch in watches]
    try:
        await asyncio.wait({working, *watching}, return_when=asyncio.FIRST_COMPLETED)
        for watch in watching:
            if watch.done() and not working.done():
                watch.result()
        return await working
    finally:
        for task in (working, *watching):
            task.cancel()
        await asyncio.gather(working, *watching, return_exceptions=True)
