"""`run.miss: wait`: a pass whose misses wait in a queue that all shards answer.

The pass appends each request to `plan/queue/<attempt>.frames` and follows the shards' journals; a
shard leases each request as a unit of its own. Once the pass is over, its requests are an
ordinary plan, and the journals ordinary journals.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import Unit
from evalhpc.storage.atomic import read_jsonl, storage_errors
from evalhpc.storage.follow import JournalFollower, QueueReader, QueueWriter
from evalhpc.worker.loop import Failure
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.faults.shard_failures import failure_files
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run

#: The queue is answered before round 1 is planned.
QUEUE_ROUND = 0
#: Seconds between looks at the queue, and at the journals.
LOOK = 0.1
_PASS_0 = 0  # the unit that is the pass itself; a request's is never 0


class Queue:
    """What a gateway forwards to: a request waits here until a journal has its answer."""

    def __init__(self, run: Run, path: Path) -> None:
        self._run = run
        self._writer = QueueWriter(path, run.hash)
        self._waiting: dict[bytes, asyncio.Future[Answer | None]] = {}
        self._unseen = False  # requests were appended and not yet shown
        self._journals: dict[Path, JournalFollower] = {}
        self._failures = {path: len(read_jsonl(path)) for path in self._failure_files()}

    async def __call__(self, request: Request) -> Answer | None:
        """A shard's answer; None for a request that was given up."""
        future = self._waiting.get(request.key)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._waiting[request.key] = future
            self._writer.append(request)
            self._unseen = True
        return await asyncio.shield(future)

    async def follow(self) -> None:
        """Show new requests and hand out new answers, until cancelled."""
        while True:
            if self._unseen:
                self._unseen = False
                await asyncio.to_thread(self._writer.flush)
            if self._waiting:
                for key, answer in await asyncio.to_thread(self._news):
                    future = self._waiting.pop(key, None)
                    if future is not None and not future.done():
                        future.set_result(answer)
            await asyncio.sleep(LOOK)

    def close(self) -> None:
        """Let nobody wait for ever."""
        for future in self._waiting.values():
            future.cancel()
        self._writer.close()

    def _news(self) -> list[tuple[bytes, Answer | None]]:
        found: list[tuple[bytes, Answer | None]] = []
        for path in sorted(self._run.paths.journals.glob(f"{QUEUE_ROUND:04d}-*.journal")):
            follower = self._journals.get(path)
            if follower is None:
                follower = self._journals[path] = JournalFollower(path, self._run.hash)
            found += follower.new()
        for path in self._failure_files():
            records = read_jsonl(path)
            for record in records[self._failures.get(path, 0) :]:
                if "key" in record:
                    found.append((bytes.fromhex(record["key"]), None))
            self._failures[path] = len(records)
        return found

    def _failure_files(self) -> list[Path]:
        return [path for _, path in failure_files(self._run, QUEUE_ROUND)]


@asynccontextmanager
async def queued_answers(run: Run) -> AsyncIterator[Queue]:
    """A queue for one attempt at pass 0; the shards turn to the latest attempt's."""
    path = run.paths.queue(0)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    path = run.paths.queue(len(queues(run)))
    queue = Queue(run, path)
    following = asyncio.create_task(queue.follow())
    try:
        yield queue
        if following.done():
            following.result()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        queue.close()


def queues(run: Run) -> list[Path]:
    """The queues of all attempts at pass 0, the latest last."""
    return sorted(run.paths.queue(0).parent.glob("*.frames"))


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
            # Each attempt asks anew what no journal had when it began.
            number = (attempt << 8 * len(request.key)) + int.from_bytes(request.key, "big")
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
        super()._settle(units)
        self._note_failures(self.counts.failures)

    def _note_failures(self, failures: list[Failure]) -> None:
        """Those that were not noted before: the pass waits for them."""
        super()._note_failures(failures[self._noted :])
        self._noted = len(failures)
