"""Plans: from the misses of a pass, or from what a round left unanswered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from evalhpc.core.costs import Costs, Kind, estimate
from evalhpc.core.identity import Request, canonical_body
from evalhpc.core.planning import (
    Entry,
    RoundPlan,
    cut_units,
    lease_order,
    share_prefix,
    unit_lengths,
)
from evalhpc.core.sampling import sampling_config
from evalhpc.errors import StorageError
from evalhpc.storage.atomic import file_hash, is_there, look_anew, write_text
from evalhpc.storage.requests_file import RequestWriter, read_requests
from evalhpc.workflow.record.jobs import rounds_since_resume
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run

if TYPE_CHECKING:  # HDF5 is dear to import
    from evalhpc.storage.store import Store

#: So many requests of an earlier round say how long each kind takes.
MEASURED = 10_000
#: The share of its requests that a round must have answered to have got on.
PROGRESS = 0.1
#: So many times `run.max_rounds` is the most that a run gets, however well each gets on.
CUT_SHORT = 3


def plan_misses(
    run: Run, number: int, before: Callable[[RoundPlan], None] | None = None
) -> RoundPlan:
    """Round `number + 1` from the misses of pass `number`, benchmark by benchmark.

    `before` sees the plan before any shard does.
    """
    return plan_round(run, number + 1, _misses(run, number), before)


def plan_unanswered(run: Run, round_: int, store: Store) -> RoundPlan:
    """The round after `round_`, from those of its requests that the store still lacks."""
    return plan_round(run, round_ + 1, unanswered(run, round_, store))


def unanswered(run: Run, round_: int, store: Store) -> Iterator[Request]:
    """The requests of `round_` that no journal answered."""
    for request in read_requests(run.paths.round_plan(round_), run.hash):
        if not store.has(request.key):
            yield request


def unanswered_units(run: Run, plan: RoundPlan, store: Store) -> set[int]:
    """The units of a plan with a request that the store lacks."""
    left = set()
    for unit in plan.units:
        requests = read_requests(run.paths.round_plan(plan.round), run.hash, unit.start, unit.end)
        if not all(store.has(request.key) for request in requests):
            left.add(unit.id)
    return left


def plan_round(
    run: Run,
    round_: int,
    requests: Iterable[Request],
    before: Callable[[RoundPlan], None] | None = None,
) -> RoundPlan:
    """Write the plan file and its units; the units come last, so that they imply the plan.

    Those of a plan that is written again go first.

    The file is in the order in which units are leased, the costliest requests first.
    """
    path = run.paths.round_plan(round_)
    path.parent.mkdir(parents=True, exist_ok=True)
    run.paths.round_units(round_).unlink(missing_ok=True)
    entries = _Entries(_measured_costs(run, round_))
    starts = _write(run, path, map(entries.seen, requests))
    ordered = lease_order(entries.listed)
    if any(entry.place != place for place, entry in enumerate(ordered)):
        starts = _write(run, path, _reordered(run, path, starts, ordered))
    lengths = unit_lengths(ordered, run.spec.run.shards, run.spec.run.unit_size)
    plan = RoundPlan(
        round=round_,
        run_hash=run.hash,
        requests=len(ordered),
        plan_hash=file_hash(path),
        units=cut_units(ordered, lengths, starts),
    )
    if before is not None:
        before(plan)
    write_text(run.paths.round_units(round_), plan.model_dump_json())
    return plan


class _Entries:
    """What decides on the units of requests that pass by in the harness's order."""

    def __init__(self, costs: Costs) -> None:
        self.listed: list[Entry] = []
        self._costs = costs
        self._kinds: dict[Kind, Kind] = {}
        self._last: tuple[Kind | None, bytes] = None, b""
        self._families = 0

    def seen(self, request: Request) -> Request:
        """Note one request and hand it on."""
        kind, body = kind_of(request), canonical_body(request.body)
        kind = self._kinds.setdefault(kind, kind)
        if kind != self._last[0] or not share_prefix(self._last[1], body):
            self._families += 1
        self._last = kind, body
        cost = self._costs.cost(kind, estimate(request.path, request.body))
        self.listed.append(Entry(kind, cost, self._families, len(self.listed)))
        return request


def kind_of(request: Request) -> Kind:
    """The requests that this one may share a unit with, and a mean latency.

    A seed of its own makes no kind of a request: every one would be a unit.
    """
    config = sampling_config(request.path, canonical_body(request.body, ("seed",)))
    return request.benchmark, request.endpoint, request.path, config


def _measured_costs(run: Run, round_: int) -> Costs:
    """Latencies of requests of earlier rounds; of a long plan every so many is enough."""
    costs = Costs()
    with run.open_store() as store:
        for earlier in planned_rounds(run):
            if earlier >= round_ or not len(store):
                continue
            planned = read_requests(run.paths.round_plan(earlier), run.hash)
            step = max(1, load_plan(run, earlier).requests // MEASURED)
            for request in islice(planned, 0, None, step):
                if (answer := store.get(request.key)) is not None:
                    guess = estimate(request.path, request.body)
                    costs.measured(kind_of(request), guess, answer.latency)
    return costs


def _write(run: Run, path: Path, requests: Iterable[Request]) -> list[int]:
    """The requests as a plan file; where each starts, and where the last one ends."""
    with RequestWriter(path, run.hash) as writer:
        return [*map(writer.append, requests), writer.offset]


def _reordered(
    run: Run, path: Path, starts: Sequence[int], ordered: Sequence[Entry]
) -> Iterator[Request]:
    """The requests of a plan file in another order, neighbours read at once."""
    begin = 0
    for index in range(1, len(ordered) + 1):
        last = ordered[index - 1].place
        if index < len(ordered) and ordered[index].place == last + 1:
            continue
        yield from read_requests(path, run.hash, starts[ordered[begin].place], starts[last + 1])
        begin = index


def load_plan(run: Run, round_: int) -> RoundPlan:
    """The units of a round; raises StorageError when it was never planned."""
    path = run.paths.round_units(round_)
    try:
        return read_record(path, RoundPlan)
    except FileNotFoundError as error:
        raise StorageError(
            f"round {round_} of this run has no plan",
            cause="the planning job has not run, or failed",
            hint=f"evalhpc status {run.word}",
        ) from error


def planned_rounds(run: Run) -> list[int]:
    """The rounds that have a complete plan, in order."""
    numbers = (int(name) for name in look_anew(run.paths.plan) if name.isdigit())
    return sorted(n for n in numbers if is_there(run.paths.round_units(n)))


def begun(run: Run, round_: int) -> bool:
    """Whether any shard has ever looked at this round."""
    return run.paths.round_leases(round_).exists()


def within_budget(run: Run) -> bool:
    """Whether another round may be planned; a resumed run has its budget anew.

    A round that was cut short (walltime, preemption) after it got on is not a wasted one; but
    there are `CUT_SHORT` times as many rounds at most.
    """
    since = rounds_since_resume(run.paths, planned_rounds(run))
    wasted = len(since) - sum(_got_on(run, one, next_) for one, next_ in pairwise(since))
    limit = run.spec.run.max_rounds
    return wasted < limit and len(since) < CUT_SHORT * limit


def asks_anew(run: Run, round_: int) -> bool:
    """Whether a round has the new questions of a pass, not what the round before it left."""
    return any(run.paths.outcome(round_ - 1, b.name).is_file() for b in run.spec.benchmarks)


def _got_on(run: Run, round_: int, following: int) -> bool:
    """Whether the following round only asks again what this one left, and that is clearly less."""
    if asks_anew(run, following):
        return False
    return load_plan(run, following).requests <= (1 - PROGRESS) * load_plan(run, round_).requests


def planned_keys(run: Run) -> set[bytes]:
    """Every key that any round of this run has planned."""
    return {
        request.key
        for round_ in planned_rounds(run)
        for request in read_requests(run.paths.round_plan(round_), run.hash)
    }


def _misses(run: Run, number: int) -> Iterator[Request]:
    for benchmark in run.spec.benchmarks:
        # A benchmark that was final before has no part in this pass.
        if run.paths.outcome(number, benchmark.name).is_file():
            yield from read_requests(run.paths.misses(number, benchmark.name), run.hash)
