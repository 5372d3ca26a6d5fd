"""`run.miss: forward`: a pass whose misses the model answers while the harness waits."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

from evalhpc.core.acceptance import Outcome, verdict
from evalhpc.core.frames import payload_digest
from evalhpc.core.identity import Answer, Request
from evalhpc.core.merkle import merkle_root
from evalhpc.core.planning import RoundPlan
from evalhpc.gateway.app import Forward
from evalhpc.http.balanced import Client
from evalhpc.storage.journal import JournalWriter, answer_meta
from evalhpc.storage.leases import LeaseBook
from evalhpc.worker.asking import Asker, RetryPolicy, Unanswered
from evalhpc.worker.dialects import DIALECTS
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.pulse import Pulse
from evalhpc.workflow.record.rounds import unanswered_units
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.stored import asked_root, stored_answers
from evalhpc.workflow.serve.clients import endpoint_clients
from evalhpc.workflow.serve.replica import Endpoint

log = logging.getLogger(__name__)

#: Journals of live passes bear the number of a shard that no array has.
LIVE_SHARD = 99_999


class Live:
    """Answers requests at once and records them: what a gateway forwards to."""

    def __init__(
        self,
        run: Run,
        clients: Mapping[str, Client],
        record: Callable[[bytes, Answer], object],
    ) -> None:
        settings, served = run.spec.run, run.spec.served()
        self._askers = {
            name: Asker(
                client,
                served[name].concurrency,
                RetryPolicy(settings.request_retries),
                adaptive=settings.adaptive,
                one_sampling_config=served[name].deployment.one_sampling_config,
                dialect=DIALECTS[served[name].deployment.dialect],
            )
            for name, client in clients.items()
        }
        self._record = record

    async def __call__(self, request: Request) -> Answer | None:
        """The answer of the request's endpoint; None for a request that was given up."""
        try:
            answer = await self._askers[request.endpoint].ask_in_turn(request)
        except Unanswered:
            return None
        self._record(request.key, answer)
        return answer


@asynccontextmanager
async def live_answers(
    run: Run, number: int, endpoints: Mapping[str, Endpoint]
) -> AsyncIterator[Live]:
    """Forwarding for pass `number`; its journal counts as one of the round that follows."""
    attempt = 0
    while (path := run.paths.journal(number + 1, LIVE_SHARD, attempt)).exists():
        attempt += 1
    with JournalWriter.create(path, run.hash) as journal:
        pulse = Pulse(journal.flush)
        pulse.start()
        try:
            # No shard asks beside such a pass.
            alone = run.spec.run.shards
            async with endpoint_clients(run, endpoints, shards=alone) as clients:
                yield Live(run, clients, journal.append)
        finally:
            pulse.stop()


def settle_answered(run: Run, plan: RoundPlan) -> None:
    """Mark those units of a live pass's plan as done that are answered: no shard asks again."""
    merge(run)
    with run.open_store() as store:
        left = unanswered_units(run, plan, store)
    book = LeaseBook(run.paths.round_leases(plan.round), "live", run.spec.run.lease_timeout)
    answered = [unit for unit in plan.units if unit.id not in left]
    for unit in answered:
        book.done(unit.id)
    book.end({"state": "ended", "answered": sum(unit.count for unit in answered)})


class Given:
    """One benchmark's live pass: its answers, and what proves which ones the harness was given.

    Two shards may answer the same request, and the one that counts need not be the one that came
    first: only what was handed out tells what the harness's numbers rest on.
    """

    def __init__(self, lookup: Callable[[bytes], Answer | None], ask: Forward) -> None:
        self._lookup = lookup
        self._ask = ask
        self._digests: dict[bytes, bytes] = {}

    def lookup(self, key: bytes) -> Answer | None:
        """An answer that was there when the pass began."""
        return self._noted(key, self._lookup(key))

    async def ask(self, request: Request) -> Answer | None:
        """An answer of the model; None for a request that was given up."""
        return self._noted(request.key, await self._ask(request))

    def root(self) -> str:
        """The Merkle root over all that was handed out, as one over the store would be."""
        return merkle_root(sorted(self._digests.items()))

    def _noted(self, key: bytes, answer: Answer | None) -> Answer | None:
        if answer is not None:
            meta = answer_meta(answer.status, answer.content_type)
            self._digests[key] = payload_digest(key, meta, answer.body)
        return answer


def given_what_counts(run: Run, outcomes: Iterable[Outcome]) -> bool:
    """After a live pass, before its requests are planned: whether the harnesses were given just
    the answers that count, now that all journals are merged."""
    merge(run)
    with run.open_store() as store:
        others = [
            outcome.benchmark
            for outcome in outcomes
            if outcome.store_root != asked_root(run, store, outcome.number, outcome.benchmark)
        ]
    for name in others:
        log.warning("%s was given other answers than those that count, and is run again", name)
    return not others


def is_live_result(run: Run, outcomes: list[Outcome]) -> bool:
    """Whether live passes over just the stored answers are the result: no replay is needed."""
    if not all(outcome.live > 0 and verdict(outcome) == "final" for outcome in outcomes):
        return False
    with run.open_store() as store:
        stored = stored_answers(run, store, ())
    return all(outcome.store_root == stored[outcome.benchmark].root for outcome in outcomes)
