"""Passes inside the array: run by an idle shard while the models of all shards stay warm."""

from __future__ import annotations

import asyncio
import logging

from evalhpc.core.acceptance import verdict
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.passes.passes import all_passes, refuse_taken_over
from evalhpc.workflow.passes.settle import settles
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.rounds import plan_misses, unanswered, within_budget
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)


async def warm_pass(desk: Desk) -> None:
    """Run the pass that follows the desk's round; plan the next round if it has misses.

    A round that is not fully answered, and whatever ends the run, is left to the collector.
    """
    run, number = desk.run, desk.round
    try:
        if not await asyncio.to_thread(_complete, run, number):
            return
        outcomes = await all_passes(run, number, still_held=desk.holds_pass)
        verdicts = {verdict(outcome) for outcome in outcomes}
        more = "misses" in verdicts and "failed" not in verdicts
        if more and settles(run, number, outcomes) and within_budget(run):
            await asyncio.to_thread(refuse_taken_over, desk.holds_pass)
            plan = await asyncio.to_thread(plan_misses, run, number)
            log.info("pass %d plans %d requests for round %d", number, plan.requests, plan.round)
    finally:
        desk.settle_pass()


def _complete(run: Run, round_: int) -> bool:
    merge(run)
    with run.open_store() as store:
        return next(unanswered(run, round_, store), None) is None
