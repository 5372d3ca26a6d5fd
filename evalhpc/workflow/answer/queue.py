"""`run.miss: wait`: a pass whose misses wait in a queue that all shards answer.

The pass appends each request to `plan/queue/<attempt>.frames` and follows the shards' journals; a
shard leases each request as a unit of its own. Once the pass is over, its requests are an
ordinary plan, and the journals ordinary journals.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from evalhpc.core.identity import Answer, Request
from evalhpc.errors import StorageError
from evalhpc.storage.atomic import read_jsonl, storage_errors
from evalhpc.storage.follow import JournalFollower, QueueWriter
from evalhpc.storage.round_view import done_units
from evalhpc.workflow.faults.shard_failures import failure_files
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)

#: The queue is answered before round 1 is planned.
QUEUE_ROUND = 0
#: Seconds between looks at the queue, and at the journals.
LOOK = 0.1
_ATTEMPT_BITS = 32


class Queue:
    """What a gateway forwards to: a request waits here until a journal has its answer."""

    def __init__(self, run: Run, attempt: int, stored: Callable[[bytes], bool]) -> None:
        """`stored`: whether the gateway has the answer to a key, and so never asks for it here."""
        self._run = run
        self._attempt = attempt
        self._stored = stored
        self._writer = QueueWriter(run.paths.queue(attempt), run.hash)
        self._waiting: dict[bytes, _Waiting] = {}
        self._asked: set[bytes] = set()
        # Answers to requests of an attempt before this one, which the harness has yet to ask.
        self._early: dict[bytes, Answer] = {}
        self._unseen = False  # requests were appended and not yet shown
        self._journals: dict[Path, JournalFollower] = {}
        self._failures = {path: len(read_jsonl(path)) for path in self._failure_files()}
        self._settled: set[int] = set()  # units that were done at the last look at the leases
        self._looked_at_leases = time.monotonic()

    async def __call__(self, request: Request) -> Answer | None:
        """A shard's answer; None for a request that was given up."""
        early = self._early.pop(request.key, None)
        if early is not None:
            self._asked.add(request.key)
            return early
        waiting = self._waiting.get(request.key)
        if waiting is None:
            waiting = _Waiting(request, asyncio.get_running_loop().create_future())
            self._waiting[request.key] = waiting
            self._asked.add(request.key)
            self._append(request)
        return await asyncio.shield(waiting.answer)

    async def follow(self) -> None:
        """Show new requests and hand out new answers, until cancelled.

        Raises StorageError where the file system stays away for longer than `run.lease_timeout`.
        """
        well, before = time.monotonic(), ""
        while True:
            try:
                await self._look()
                well, before = time.monotonic(), ""
            except StorageError as error:
                if time.monotonic() - well > self._run.spec.run.lease_timeout:
                    raise
                if error.what != before:
                    log.warning("the queue is looked at again: %s", error.what)
                before = error.what
            await asyncio.sleep(LOOK)

    def close(self) -> None:
        """Let nobody wait for ever."""
        for waiting in self._waiting.values():
            waiting.answer.cancel()
        self._writer.close()

    def _append(self, request: Request) -> None:
        self._unseen = True
        try:
            self._writer.append(request)
        except StorageError as error:
            # It stays in memory: the next flush writes it, or says so itself.
            log.warning("the queue is written to again: %s", error.what)

    async def _look(self) -> None:
        if self._unseen:
            self._unseen = False
            try:
                await asyncio.to_thread(self._writer.flush)
            except StorageError:
                self._unseen = True
                raise
        if not self._waiting:
            return
        settled = self._settled
        if time.monotonic() - self._looked_at_leases > self._run.spec.run.lease_timeout / 4:
            self._settled = await asyncio.to_thread(self._settled_units)
            self._looked_at_leases = time.monotonic()
        news: list[tuple[bytes, Answer | None]] = []
        try:
            await asyncio.to_thread(self._read_news, news)
        finally:
            for key, answer in news:
                self._hand_out(key, answer)
        self._ask_again(settled)

    def _hand_out(self, key: bytes, answer: Answer | None) -> None:
        waiting = self._waiting.pop(key, None)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(answer)
        elif answer is not None and key not in self._asked and not self._stored(key):
            self._early.setdefault(key, answer)

    def _ask_again(self, settled: set[int]) -> None:
        """Those whose units were done before the journals were read, which do not have them."""
        for key, waiting in self._waiting.items():
            if unit_number(self._attempt, key, waiting.repeats) in settled:
                log.warning("the answer to %s is damaged in its journal: asked again", key.hex())
                waiting.repeats += 1
                self._append(waiting.request)

    def _settled_units(self) -> set[int]:
        folder = self._run.paths.round_leases(QUEUE_ROUND)
        with storage_errors(folder):
            return done_units(folder)

    def _read_news(self, found: list[tuple[bytes, Answer | None]]) -> None:
        """Add what came since the last look, also where one of the files cannot be read."""
        folder = self._run.paths.journals
        with storage_errors(folder):
            journals = sorted(folder.glob(f"{QUEUE_ROUND:04d}-*.journal"))
            failures = self._failure_files()
        for path in journals:
            follower = self._journals.get(path)
            if follower is None:
                follower = self._journals[path] = JournalFollower(path, self._run.hash)
            found += follower.new()
        for path in failures:
            records = read_jsonl(path)
            for record in records[self._failures.get(path, 0) :]:
                if "key" in record:
                    found.append((bytes.fromhex(record["key"]), None))
            self._failures[path] = len(records)

    def _failure_files(self) -> list[Path]:
        return [path for _, path in failure_files(self._run, QUEUE_ROUND)]


@dataclass
class _Waiting:
    """A request that the harness waits for."""

    request: Request
    answer: asyncio.Future[Answer | None]
    repeats: int = 0  # times that it was appended again


@asynccontextmanager
async def queued_answers(run: Run) -> AsyncIterator[Queue]:
    """A queue for one attempt at pass 0, to be followed; shards turn to the latest attempt's."""
    path = run.paths.queue(0)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with run.open_store() as store:
        queue = Queue(run, len(queues(run)), store.has)
        try:
            yield queue
        finally:
            queue.close()


def unit_number(attempt: int, key: bytes, repeat: int = 0) -> int:
    """The unit of a queued request: each attempt asks anew what no journal had when it began.

    `repeat`: how often the same attempt had appended it before.
    """
    bits = 8 * len(key)
    return (repeat << bits + _ATTEMPT_BITS) + (attempt << bits) + int.from_bytes(key, "big")


def queues(run: Run) -> list[Path]:
    """The queues of all attempts at pass 0, the latest last."""
    return sorted(run.paths.queue(0).parent.glob("*.frames"))
