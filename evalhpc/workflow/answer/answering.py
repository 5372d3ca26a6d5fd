"""A shard at work: a worker for each endpoint, until no unit is left or the job is to end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any

from evalhpc.http.balanced import Client
from evalhpc.models.deployment import Existing, Serving
from evalhpc.worker.asking import RetryPolicy
from evalhpc.worker.dialects import DIALECTS
from evalhpc.worker.loop import Worker
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.record.signals import Interrupted, until_signalled
from evalhpc.workflow.serve.liveness import canary, watched

#: Seconds that requests in flight get to end once the job was asked to; KillWait is 30 by default.
LAST_WORDS = 15.0


async def answer(desk: Desk, clients: Mapping[str, Client]) -> None:
    """A worker for each endpoint, side by side, until no unit is left for any of them."""
    workers = [_worker(desk, name, client) for name, client in clients.items()]
    stopped = asyncio.Event()

    def stop() -> None:
        for worker in workers:
            worker.stop()
        desk.leaving = True
        stopped.set()

    desk.state = "working"
    work = watched(_until_stopped(workers, stopped), _canaries(desk, clients, workers))
    await until_signalled(work, on_signal=stop)
    if stopped.is_set():
        raise Interrupted("asked to end")


def _worker(desk: Desk, endpoint: str, client: Client) -> Worker:
    served, settings = desk.run.spec.served()[endpoint], desk.run.spec.run
    return Worker(
        client,
        desk.at(endpoint),
        desk.record,
        desk.counts,
        concurrency=served.concurrency,
        policy=RetryPolicy(settings.request_retries),
        adaptive=settings.adaptive,
        one_sampling_config=served.deployment.one_sampling_config,
        dialect=DIALECTS[served.deployment.dialect],
    )


def _canaries(
    desk: Desk, names: Iterable[str], workers: Iterable[Worker]
) -> list[Coroutine[Any, Any, None]]:
    """A watch over each endpoint, unless the run wants none, or requests must be spared.

    Where a rate is limited, silence is no sign, and a request that waits is not one that hangs.
    """
    served, settings = desk.run.spec.served(), desk.run.spec.run
    if not settings.canary:
        return []
    return [
        canary(
            name, served[name], worker.asker,
            every=settings.canary, request_timeout=settings.request_timeout,
        ).watch()
        for name, worker in zip(names, workers, strict=True)
        if not _is_limited(served[name].deployment)
    ]  # fmt: skip


def _is_limited(deployment: Serving) -> bool:
    return isinstance(deployment, Existing) and deployment.rate_limit is not None


async def _until_stopped(workers: Sequence[Worker], stopped: asyncio.Event) -> None:
    """The workers' runs; once stopped, what is in flight gets LAST_WORDS seconds."""
    working = asyncio.create_task(_all(workers))
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await asyncio.wait({working}, timeout=LAST_WORDS)
        if working.done():
            await working
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.gather(waiting, working, return_exceptions=True)


async def _all(workers: Sequence[Worker]) -> None:
    """Run them side by side; the first that fails ends the others."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
