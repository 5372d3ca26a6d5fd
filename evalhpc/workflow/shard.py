"""One shard: lease or end; start the replica; answer rounds while the model is warm."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

import uvloop

from evalhpc.errors import IncompleteError
from evalhpc.http.client import HttpClient
from evalhpc.worker.asking import RetryPolicy
from evalhpc.worker.loop import WorkCounts, Worker
from evalhpc.workflow.desk import Desk
from evalhpc.workflow.inline import plan_inline
from evalhpc.workflow.replica import Endpoint, Replicas, endpoint_clients
from evalhpc.workflow.rounds import planned_rounds
from evalhpc.workflow.run import Run
from evalhpc.workflow.signals import Interrupted, interruptible, until_signalled
from evalhpc.workflow.warm import another_pass_expected, warm_pass

log = logging.getLogger(__name__)

#: Seconds that requests in flight get to end once the job was asked to; KillWait is 30 by default.
LAST_WORDS = 15.0
#: Seconds between looks at what the other shards do.
LOOK = 1.0


def run_shard(run: Run, round_: int, shard: int) -> WorkCounts:
    """Answer rounds until nothing is left; raises IncompleteError for requests given up."""
    total = WorkCounts()
    if run.paths.cancelled.exists():
        log.info("shard %d: the run was cancelled", shard)
        return total
    with interruptible(), Replicas(run, round_, shard) as replicas:
        if not planned_rounds(run) and not plan_inline(run, shard, replicas):
            return total
        desk = Desk(run, round_, shard)
        if not desk.work_left():
            log.info("shard %d: nothing left to lease in round %d", shard, round_)
            return total
        _answer_rounds(desk, replicas, total)
    if total.failures:
        raise IncompleteError(
            f"{len(total.failures)} requests got no answer, the first: {total.failures[0].reason}",
            cause="the model server failed on them again and again",
            hint=f"less {run.paths.journals}/*.failures.jsonl",
        )
    return total


def _answer_rounds(first: Desk, replicas: Replicas, total: WorkCounts) -> None:
    """This round, and those that passes run beside the warm models plan after it."""
    desk: Desk | None = first
    while desk is not None:
        with desk:
            following = uvloop.run(_round(desk, replicas.ready(desk.endpoints())))
        total.answered += desk.counts.answered
        total.units += desk.counts.units
        total.failures += desk.counts.failures
        desk = None if following is None else Desk(desk.run, following, desk.shard)


async def _round(desk: Desk, endpoints: Mapping[str, Endpoint]) -> int | None:
    """Work at one desk to its end; returns the round that follows, if this shard stays for it."""
    async with endpoint_clients(desk.run, endpoints) as clients:
        following: int | None = desk.round
        while following == desk.round:
            await _answer(desk, clients)
            following = await _stay(desk)
    return following


async def _answer(desk: Desk, clients: Mapping[str, HttpClient]) -> None:
    """A worker for each endpoint, side by side, until no unit is left for any of them."""
    workers = [_worker(desk, name, client) for name, client in clients.items()]
    stopped = asyncio.Event()

    def stop() -> None:
        for worker in workers:
            worker.stop()
        stopped.set()

    desk.state = "working"
    await until_signalled(_until_stopped(workers, stopped), on_signal=stop)
    if stopped.is_set():
        raise Interrupted("asked to end")


def _worker(desk: Desk, endpoint: str, client: HttpClient) -> Worker:
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
    )


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


async def _stay(desk: Desk) -> int | None:
    """The round to go on with: this one if a unit came free, the next once it is planned.

    A shard stays only where another round is expected, and no longer than `run.linger`.
    """
    if not another_pass_expected(desk.run, desk.round):
        return None
    desk.state = "waiting"
    return await until_signalled(_await_round(desk))


async def _await_round(desk: Desk) -> int | None:
    deadline = time.monotonic() + desk.run.spec.run.linger
    while time.monotonic() < deadline:
        if planned_rounds(desk.run)[-1] > desk.round:
            return planned_rounds(desk.run)[-1]
        if await asyncio.to_thread(desk.work_left):
            return desk.round
        if await asyncio.to_thread(desk.all_done):
            if desk.pass_done():
                return None  # the pass found nothing to ask, or failed: the collector's to say
            if await asyncio.to_thread(desk.claim_pass):
                desk.state = "passing"
                await warm_pass(desk)
                continue
        await asyncio.sleep(LOOK)
    return None
