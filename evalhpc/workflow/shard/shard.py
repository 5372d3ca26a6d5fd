"""One shard: lease or end; start the replica; answer rounds while the model is warm."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

import uvloop

from evalhpc.errors import EndpointError, IncompleteError
from evalhpc.storage.atomic import is_there
from evalhpc.worker.loop import WorkCounts
from evalhpc.workflow.answer.answering import answer
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.faults.early_stop import (
    answering_round,
    refuse_endless,
    refuse_futile,
    restarts_here,
)
from evalhpc.workflow.record.outcomes import another_pass_expected
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import interruptible, until_signalled
from evalhpc.workflow.serve.clients import endpoint_clients
from evalhpc.workflow.serve.liveness import while_alive
from evalhpc.workflow.serve.replica import Endpoint, Replicas
from evalhpc.workflow.shard.inline import plan_inline
from evalhpc.workflow.shard.sliced import answer_slices
from evalhpc.workflow.shard.waiting import answer_queue
from evalhpc.workflow.shard.warm import warm_pass

log = logging.getLogger(__name__)

#: Seconds between looks at what the other shards do.
LOOK = 1.0


def run_shard(run: Run, round_: int, shard: int) -> WorkCounts:
    """Answer rounds until nothing is left; raises IncompleteError for requests given up.

    FutileError: others failed alike, or this one was started too often.
    """
    total = WorkCounts()
    if is_there(run.paths.cancelled):
        log.info("shard %d: the run was cancelled", shard)
        return total
    answering = answering_round(run, round_)
    refuse_futile(run, answering, shard)
    refuse_endless(run, answering, shard, restarts_here())
    with interruptible(), Replicas(run, round_, shard) as replicas:
        if not planned_rounds(run) and not _plan(run, shard, replicas, total):
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


def _plan(run: Run, shard: int, replicas: Replicas, total: WorkCounts) -> bool:
    """See to it that round 1 is planned; False when the run has failed meanwhile."""
    if run.spec.run.shard_by == "samples":
        return answer_slices(run, shard, replicas, total)
    if run.spec.run.miss == "wait":
        return answer_queue(run, shard, replicas, total)
    return plan_inline(run, shard, replicas)


def _answer_rounds(first: Desk, replicas: Replicas, total: WorkCounts) -> None:
    """This round, and those that passes run beside the warm models plan after it."""
    desk: Desk | None = first
    while desk is not None:
        with desk:
            endpoints = replicas.ready(desk.endpoints())
            following = uvloop.run(_while_alive(desk, endpoints, replicas))
        total.answered += desk.counts.answered
        total.units += desk.counts.units
        total.failures += desk.counts.failures
        desk = None if following is None else Desk(desk.run, following, desk.shard)


async def _while_alive(
    desk: Desk, endpoints: Mapping[str, Endpoint], replicas: Replicas
) -> int | None:
    """`_round`, cut short by EndpointError if a server ends before the job is to end."""

    def death() -> EndpointError | None:
        return None if desk.leaving else replicas.death()

    return await while_alive(_round(desk, endpoints), death)


async def _round(desk: Desk, endpoints: Mapping[str, Endpoint]) -> int | None:
    """Work at one desk to its end; returns the round that follows, if this shard stays for it."""
    async with endpoint_clients(desk.run, endpoints) as clients:
        following: int | None = desk.round
        while following == desk.round:
            await answer(desk, clients)
            following = await _stay(desk)
    return following


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
