"""A shard with `run.shard_by: samples`: it leases slices, and runs the harness beside its model."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import uvloop

from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import Unit
from evalhpc.errors import EvalhpcError
from evalhpc.worker.loop import WorkCounts
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.passes.live import Live
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import until_signalled
from evalhpc.workflow.serve.clients import endpoint_clients
from evalhpc.workflow.serve.liveness import while_alive
from evalhpc.workflow.serve.replica import Endpoint, Replicas
from evalhpc.workflow.slices.harness import run_slice
from evalhpc.workflow.slices.listing import SLICE_ROUND, Slice, load_slices
from evalhpc.workflow.slices.plan import plan_sliced

log = logging.getLogger(__name__)

_ANSWERED = 1  # the round whose answers those of the slices are
_LOOK = 1.0


class SliceDesk(Desk):
    """The slices of the run, each a unit without requests of its own."""

    def __init__(self, run: Run, shard: int) -> None:
        self._slices = {slice_.id: slice_ for slice_ in load_slices(run)}
        super().__init__(run, SLICE_ROUND, shard, journal_round=_ANSWERED)

    def take_slice(self) -> Slice | None:
        """Lease the next slice; None when there is none now."""
        taken = self._take(None)
        return None if taken is None else self._slices[taken[0].id]

    def settle_slice(self, slice_: Slice) -> None:
        """Flush the journal, then mark the slice done."""
        self._settle([self._units[slice_.id]])
        self.counts.units += 1

    def _planned(self) -> Sequence[Unit]:
        return [
            Unit(id=slice_.id, start=0, end=0, count=1, benchmark=slice_.benchmark)
            for slice_ in self._slices.values()
        ]

    def _take(self, endpoint: str | None) -> tuple[Unit, list[Request]] | None:
        self._pulse.wait_healthy(self.run.spec.run.lease_timeout)
        with self._lock:
            number = self._book.next_unit(self._ids_of(endpoint))
        return None if number is None else (self._units[number], [])


def answer_slices(run: Run, shard: int, replicas: Replicas, total: WorkCounts) -> bool:
    """Run the harness on slices until none is left; False unless round 1 is planned by then."""
    desk, warm = SliceDesk(run, shard), False
    with desk:
        while (slice_ := _next(desk, warm)) is not None:
            desk.state = "starting"
            endpoints = replicas.ready()
            warm, desk.state = True, "working"
            running = while_alive(_answer(desk, slice_, endpoints), replicas.death)
            uvloop.run(until_signalled(running))
            desk.settle_slice(slice_)
    total.answered += desk.counts.answered
    total.units += desk.counts.units
    return bool(planned_rounds(run))


def _next(desk: SliceDesk, warm: bool) -> Slice | None:
    """The next slice, maybe of a shard that died; None when there will be none for this shard.

    One with a warm model waits for the others, at most `run.linger` seconds: once all slices are
    run, what they left unasked is work for whoever is there.
    """
    run, deadline = desk.run, time.monotonic() + desk.run.spec.run.linger
    while not (planned_rounds(run) or run.paths.failure.exists()):
        slice_ = desk.take_slice()
        if slice_ is not None:
            return slice_
        # The last holder of the pass may have died right after it had planned.
        if desk.all_done() and desk.claim_pass() and (planned_rounds(run) or _plan(desk)):
            return None
        if not warm or time.monotonic() > deadline:
            log.info("shard %d: no slice is left to lease", desk.shard)
            return None
        desk.state = "waiting"
        time.sleep(_LOOK)
    return None


def _plan(desk: SliceDesk) -> bool:
    """Plan round 1; False where another shard took this one for dead, and plans instead."""
    desk.state = "passing"
    try:
        plan = plan_sliced(desk.run, desk.holds_pass)
    except EvalhpcError as error:
        if desk.holds_pass():
            note_failure(desk.run, error)
            raise
        log.warning("planning was taken over by another shard: %s", error.what)
        return False
    desk.settle_pass()
    log.info("the slices are run; round 1 has %d requests", plan.requests)
    return True


async def _answer(desk: SliceDesk, slice_: Slice, endpoints: Mapping[str, Endpoint]) -> None:
    def record(key: bytes, answer: Answer) -> None:
        desk.record(key, answer)
        desk.counts.answered += 1

    async with endpoint_clients(desk.run, endpoints) as clients:
        await run_slice(desk.run, slice_, Live(desk.run, clients, record))
