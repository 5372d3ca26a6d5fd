"""A shard's desk while pass 0 waits (`run.miss: wait`): each queued request is a unit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from evalhpc.core.identity import Request
from evalhpc.core.planning import Unit
from evalhpc.storage.follow import QueueReader
from evalhpc.worker.loop import Failure
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.answer.queue import LOOK, QUEUE_ROUND, queues, unit_number
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run

_PASS_0 = 0  # the unit that is the pass itself; a request's is never 0


class QueueDesk(Desk):
    """The requests that pass 0 waits for, each a unit of its own, as they come in."""

    def __init__(self, run: Run, shard: int) -> None:
        super().__init__(run, QUEUE_ROUND, shard)
        self._pass = _PASS_0
        self._readers: list[QueueReader] = []
        self._requests: dict[int, Request] = {}  # unit → what it asks
        self._fresh: dict[str, list[int]] = {}  # endpoint → units that nobody was seen to hold
        self._held: dict[str, list[int]] = {}  # endpoint → units that others were quicker at
        self._looked_for_dead = time.monotonic()
        self._noted = 0

    def _planned(self) -> Sequence[Unit]:
        return ()

    def over(self) -> bool:
        """Whether pass 0 has ended, well or not."""
        return bool(planned_rounds(self.run)) or self.run.paths.failure.exists()

    def _take(self, endpoint: str | None) -> tuple[Unit, list[Request]] | None:
        assert endpoint is not None
        while not (self.leaving or self.over()):
            self._pulse.wait_healthy(self.run.spec.run.lease_timeout)
            with self._lock:
                self._look()
                number = self._lease(endpoint)
            if number is not None:
                return self._units[number], [self._requests.pop(number)]
            time.sleep(LOOK)
        return None

    def _look(self) -> None:
        """Learn of the requests that came since the last look."""
        paths = queues(self.run)
        for path in paths[len(self._readers) :]:
            self._readers.append(QueueReader(path, self.run.hash))
        if not self._readers:
            return
        attempt = len(self._readers) - 1
        for request in self._readers[-1].new():
            repeat = 0
            while (number := unit_number(attempt, request.key, repeat)) in self._units:
                repeat += 1
            self._units[number] = Unit(
                id=number, start=0, end=0, count=1,
                benchmark=request.benchmark, endpoint=request.endpoint,
            )  # fmt: skip
            self._requests[number] = request
            self._fresh.setdefault(request.endpoint, []).append(number)

    def _lease(self, endpoint: str) -> int | None:
        fresh = self._fresh.get(endpoint, [])
        held = self._held.setdefault(endpoint, [])
        while fresh:
            number = fresh.pop(0)
            if self._book.claim(number):
                return number
            held.append(number)
        now = time.monotonic()
        if held and now - self._looked_for_dead > self.run.spec.run.lease_timeout / 4:
            self._looked_for_dead = now
            self._held[endpoint] = held = self._book.open_units(held)
            number_or_none = self._book.steal_dead(held)
            if number_or_none is not None:
                held.remove(number_or_none)
            return number_or_none
        return None

    def _settle(self, units: Iterable[Unit]) -> None:
        # Before they are done: a unit that is done has an answer, or a failure that says why not.
        self._note_failures(self.counts.failures)
        super()._settle(units)

    def _note_failures(self, failures: list[Failure]) -> None:
        """Those that were not noted before: the pass waits for them."""
        super()._note_failures(failures[self._noted :])
        self._noted = len(failures)
