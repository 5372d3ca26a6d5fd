"""Pass 0 in the array: the first shard runs it while its model loads, or with it (forward)."""

from __future__ import annotations

import logging
import time

from evalhpc.errors import EvalhpcError
from evalhpc.storage.leases import LeaseBook
from evalhpc.workflow.collect.collect import plan_first
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.pulse import Pulse
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.replica import Replicas

log = logging.getLogger(__name__)

_PASS_0 = 0  # the one unit of round 0
_LOOK = 1.0


def plan_inline(run: Run, shard: int, replicas: Replicas) -> bool:
    """See to it that round 1 is planned; False when the run has failed meanwhile.

    One shard leases pass 0 and starts its model beside it; the others wait without a model.
    """
    book = LeaseBook(run.paths.round_leases(0), f"{shard:05d}",
                     run.spec.run.lease_timeout)  # fmt: skip
    while not planned_rounds(run):
        if run.paths.failure.exists():
            log.error("pass 0 failed in another shard")
            return False
        # Its last holder may have died right after it had planned.
        if book.next_unit([_PASS_0]) is not None and (
            planned_rounds(run) or _plan(run, book, replicas)
        ):
            return True
        time.sleep(_LOOK)
    return True


def _plan(run: Run, book: LeaseBook, replicas: Replicas) -> bool:
    """Plan round 1; False where another shard took this one for dead, and plans instead."""
    pulse = Pulse(lambda: book.beat({"state": "planning"}))
    book.beat({"state": "planning"})  # it may have said before that it ends
    pulse.start()
    try:
        replicas.start()
        plan_first(run, replicas, lambda: book.still_mine(_PASS_0))
        book.done(_PASS_0)
    except EvalhpcError as error:
        if book.still_mine(_PASS_0):
            note_failure(run, error)
            raise
        log.warning("pass 0 was taken over by another shard: %s", error.what)
        return False
    else:
        return True
    finally:
        pulse.stop()
        book.end({"state": "ended"})
