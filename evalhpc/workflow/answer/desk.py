"""A shard's desk for one round: its leases, its journal, and the heartbeat that keeps them."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import Unit
from evalhpc.errors import EvalhpcError
from evalhpc.storage.atomic import append_jsonl
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.leases import LeaseBook
from evalhpc.storage.requests_file import read_requests
from evalhpc.storage.round_view import last_words
from evalhpc.worker.loop import Failure, WorkCounts
from evalhpc.workflow.record.jobs import resumes
from evalhpc.workflow.record.pulse import Pulse
from evalhpc.workflow.record.rounds import load_plan
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import Interrupted
from evalhpc.workflow.serve.herald import node_name

log = logging.getLogger(__name__)


class Desk:
    """worker.loop.Units over the shared folder; its file system calls run in threads.

    As a context manager it beats from a thread of its own, so that neither a loading model nor a
    busy event loop makes the worker look dead; at the end its undone units are free at once.
    """

    def __init__(
        self, run: Run, round_: int, shard: int, *, journal_round: int | None = None
    ) -> None:
        """`journal_round`: the round whose answers these are, where it is not `round_` itself."""
        self.run = run
        self.round = round_
        self.shard = shard
        self._journal_round = round_ if journal_round is None else journal_round
        self.counts = WorkCounts()
        self._state, self._since = "starting", time.monotonic()
        self._spent: dict[str, float] = {}  # state → seconds, of the states before this one
        self.leaving = False  # the job is to end
        self._units = {unit.id: unit for unit in self._planned()}
        self._ids = list(self._units)
        shards = max(1, min(run.spec.run.shards, len(self._ids)))
        # What this shard may lease: with a static schedule its slice, whatever becomes of others.
        self._leasable = self._ids
        if run.spec.run.schedule == "static":
            self._leasable = [number for number in self._ids if number % shards == shard]
        # The pass that follows is leased like one more unit.
        self._pass = len(self._ids)
        self._attempt = _next_attempt(run, self._journal_round, shard)
        # A requeued shard bears the name of its dead attempt, whose leases are then free at once.
        name = f"{shard:05d}"
        folder = run.paths.round_leases(round_)
        self._resumes = resumes(run.paths)
        self._before = last_words(folder, name)
        timeout = run.spec.run.lease_timeout
        self._book = LeaseBook(folder, name, timeout, place=shard, workers=shards)
        self._lock = threading.Lock()  # a LeaseBook belongs to one thread at a time
        self._unsettled: list[Unit] = []  # answered or given up, but not yet marked done
        self._settling = asyncio.Lock()
        self._journal: JournalWriter | None = None
        self._pulse = Pulse(self._beat)

    def _planned(self) -> Sequence[Unit]:
        return load_plan(self.run, self.round).units

    def __enter__(self) -> Desk:
        path = self.run.paths.journal(self._journal_round, self.shard, self._attempt)
        self._journal = JournalWriter.create(path, self.run.hash)
        self._note_lost()
        self._pulse.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pulse.stop()
        assert self._journal is not None
        with ExitStack() as last:  # each is done whatever becomes of the one before
            last.callback(self._end)
            last.callback(self._note_why, error)
            self._journal.close()

    def _note_why(self, error: BaseException | None) -> None:
        if isinstance(error, EvalhpcError):
            self._note_fatal(error)
        elif isinstance(error, Exception) and not isinstance(error, Interrupted):
            self._note_fatal(EvalhpcError(f"the shard failed: {error!r}", cause="a bug of evalhpc"))
        self._note_failures(self.counts.failures)

    def _end(self) -> None:
        self.state = "ended"
        with self._lock:
            self._book.end(self._stats())

    @property
    def state(self) -> str:
        """What the shard does: starting (the model loads), working, waiting, passing, ended."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._spent = self._seconds()
        self._state, self._since = state, time.monotonic()

    def endpoints(self) -> tuple[str, ...]:
        """Who is to answer the round's units, in the order of the first unit of each."""
        return tuple(dict.fromkeys(unit.endpoint for unit in self._units.values()))

    def at(self, endpoint: str) -> EndpointUnits:
        """The units of one endpoint, for the worker that asks it."""
        return EndpointUnits(self, endpoint)

    def work_left(self, endpoint: str | None = None) -> bool:
        """Whether a unit (of `endpoint`) could be had now: is a model worth starting?"""
        ids = self._ids_of(endpoint)
        with self._lock:
            return self._book.any_open(ids)

    def all_done(self) -> bool:
        """Whether every unit of the round is answered or given up."""
        with self._lock:
            return not self._book.open_units(self._ids)

    def claim_pass(self) -> bool:
        """Take the pass that follows this round; False if another shard has it."""
        with self._lock:
            return self._book.next_unit([self._pass]) is not None

    def pass_lease(self) -> Path:
        """The lease of the pass that this shard has claimed."""
        with self._lock:
            return self._book.lease(self._pass)

    def holds_pass(self) -> bool:
        """Whether the pass that this shard has claimed is still its own to plan or to fail."""
        with self._lock:
            return self._book.still_mine(self._pass)

    def pass_done(self) -> bool:
        """Whether a shard has run the pass that follows this round."""
        with self._lock:
            return self._book.is_done(self._pass)

    def settle_pass(self) -> None:
        """Say that the pass is over, whatever it found."""
        with self._lock:
            self._book.done(self._pass)

    # --- worker.loop.Units

    async def take(self, endpoint: str | None = None) -> tuple[Unit, list[Request]] | None:
        """Lease the next unit (of `endpoint`) and read its requests."""
        return await asyncio.to_thread(self._take, endpoint)

    async def settle(self, unit: Unit) -> None:
        """Flush the journal, then mark the unit done: in this order, or a crash loses answers.

        Units that end during a flush share the next one.
        """
        self._unsettled.append(unit)
        async with self._settling:
            if unit in self._unsettled:
                units = tuple(self._unsettled)
                await asyncio.to_thread(self._settle, units)
                del self._unsettled[: len(units)]

    def record(self, key: bytes, answer: Answer) -> None:
        """Hand one answer to the journal; it is durable with the next beat or settlement."""
        assert self._journal is not None
        self._journal.append(key, answer)

    def _ids_of(self, endpoint: str | None) -> list[int]:
        if endpoint is None:
            return self._leasable
        return [number for number in self._leasable if self._units[number].endpoint == endpoint]

    def _take(self, endpoint: str | None) -> tuple[Unit, list[Request]] | None:
        self._pulse.wait_healthy(self.run.spec.run.lease_timeout)
        ids = self._ids_of(endpoint)
        with self._lock:
            number = self._book.next_unit(ids)
        if number is None:
            return None
        unit = self._units[number]
        path = self.run.paths.round_plan(self.round)
        return unit, list(read_requests(path, self.run.hash, unit.start, unit.end))

    def _settle(self, units: Iterable[Unit]) -> None:
        assert self._journal is not None
        self._journal.flush()
        for unit in units:
            with self._lock:
                if self._book.still_mine(unit.id):
                    self._book.done(unit.id)
                else:
                    log.warning("unit %d was taken over by another worker", unit.id)

    # --- heartbeat

    def _beat(self) -> None:
        assert self._journal is not None
        said = self._stats()  # before the flush: what it says is answered is durable by then
        self._journal.flush()
        with self._lock:
            self._book.beat(said)

    def _seconds(self) -> dict[str, float]:
        """State → seconds so far, the present one included: what later estimates rest on."""
        before = self._spent.get(self._state, 0.0)
        return {**self._spent, self._state: before + time.monotonic() - self._since}

    def _stats(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "seconds": {state: round(spent, 1) for state, spent in self._seconds().items()},
            "node": node_name(),
            "resumes": self._resumes,
            "pid": os.getpid(),
            "answered": self.counts.answered,
            "retried": self.counts.retried,
            "concurrency": self.counts.concurrency,
            "failed": len(self.counts.failures),
            "units": self.counts.units,
        }

    # --- what the collector reads

    def _note_fatal(self, error: EvalhpcError) -> None:
        record = {"fatal": error.what, "cause": error.cause, "hint": error.hint}
        where = {"node": node_name(), "at": time.time()}
        progress = {"answered": self.counts.answered, "resumes": self._resumes}
        kind = {"exit_code": error.exit_code, "transient": error.transient}
        self._note({**record, **kind, **where, **progress})

    def _note_lost(self) -> None:
        """What this shard's last life could not say: its heartbeat is about to be overwritten."""
        node = self._before.get("node", "")
        if node and self._before.get("state", "ended") != "ended":
            self._note({"lost": node, "resumes": self._before.get("resumes", 0)})

    def _note_failures(self, failures: list[Failure]) -> None:
        for failure in failures:
            record = {"key": failure.key.hex(), "benchmark": failure.benchmark}
            self._note({**record, "reason": failure.reason, "fault": failure.fault})

    def _note(self, record: dict[str, Any]) -> None:
        path = self.run.paths.shard_failures(self._journal_round, self.shard, self._attempt)
        append_jsonl(path, record)


class EndpointUnits:
    """worker.loop.Units for one endpoint: a desk's leases, journal and heartbeat serve them all."""

    def __init__(self, desk: Desk, endpoint: str) -> None:
        self._desk = desk
        self._endpoint = endpoint

    async def take(self) -> tuple[Unit, list[Request]] | None:
        """Lease the endpoint's next unit and read its requests."""
        return await self._desk.take(self._endpoint)

    async def settle(self, unit: Unit) -> None:
        """Flush the journal, then mark the unit done; units of all endpoints share a flush."""
        await self._desk.settle(unit)


def _next_attempt(run: Run, round_: int, shard: int) -> int:
    """The first attempt number without a journal: a requeued shard begins a new file."""
    attempt = 0
    while run.paths.journal(round_, shard, attempt).exists():
        attempt += 1
    return attempt
