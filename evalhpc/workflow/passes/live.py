"""`run.miss: forward`: a pass whose misses the model answers while the harness waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from evalhpc.core.acceptance import Outcome, verdict
from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import RoundPlan
from evalhpc.http.balanced import Client
from evalhpc.storage.atomic import write_text
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.leases import LeaseBook
from evalhpc.worker.asking import Asker, RetryPolicy, Unanswered
from evalhpc.worker.dialects import DIALECTS
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.pulse import Pulse
from evalhpc.workflow.record.rounds import unanswered_units
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.stored import stored_answers
from evalhpc.workflow.serve.clients import endpoint_clients
from evalhpc.workflow.serve.replica import Endpoint

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


def bind(run: Run, number: int, outcomes: list[Outcome]) -> list[Outcome]:
    """After a live pass whose requests are planned: its outcomes stand for the merged answers."""
    with run.open_store() as store:
        stored = stored_answers(run, store, ())
    bound = [
        outcome.model_copy(update={"store_root": stored[outcome.benchmark].root})
        for outcome in outcomes
    ]
    for outcome in bound:
        path = run.paths.outcome(number, outcome.benchmark)
        write_text(path, outcome.model_dump_json(indent=1))
    return bound


def is_live_result(run: Run, outcomes: list[Outcome]) -> bool:
    """Whether live passes over just the stored answers are the result: no replay is needed."""
    if not all(outcome.live > 0 and verdict(outcome) == "final" for outcome in outcomes):
        return False
    with run.open_store() as store:
        stored = stored_answers(run, store, ())
    return all(outcome.store_root == stored[outcome.benchmark].root for outcome in outcomes)
