"""Pass 0 in the array: the first shard runs it while its model loads, or with it (forward)."""

from __future__ import annotations

import logging
import time

from evalhpc.errors import EvalhpcError
from evalhpc.storage.leases import LeaseBook
from evalhpc.workflow.collect.collect import note_failure, plan_first
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
        if book.next_unit([_PASS_0]) is not None:
            _plan(run, book, replicas)
            return True
        time.sleep(_LOOK)
    return True


def _plan(run: Run, book: LeaseBook, replicas: Replicas) -> None:
    pulse = Pulse(lambda: book.beat({"state": "planning"}))
    pulse.start()
    try:
        replicas.start()
        plan_first(run, replicas)
        book.done(_PASS_0)
    except EvalhpcError as error:
        note_failure(run, error)
        raise
    finally:
        pulse.stop()
        book.end({"state": "ended"})
