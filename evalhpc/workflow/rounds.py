"""Plans: from the misses of a pass, or from what a round left unanswered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evalhpc.core.identity import Request
from evalhpc.core.planning import Entry, RoundPlan, cut_units, unit_size
from evalhpc.errors import StorageError
from evalhpc.storage.atomic import file_hash, write_text
from evalhpc.storage.requests_file import RequestWriter, read_requests
from evalhpc.storage.store import Store
from evalhpc.workflow.jobs import rounds_since_resume
from evalhpc.workflow.records import read_record
from evalhpc.workflow.run import Run


def plan_misses(run: Run, number: int) -> RoundPlan:
    """Round `number + 1` from the misses of pass `number`, benchmark by benchmark."""
    return plan_round(run, number + 1, _misses(run, number))


def plan_unanswered(run: Run, round_: int, store: Store) -> RoundPlan:
    """The round after `round_`, from those of its requests that the store still lacks."""
    return plan_round(run, round_ + 1, unanswered(run, round_, store))


def unanswered(run: Run, round_: int, store: Store) -> Iterator[Request]:
    """The requests of `round_` that no journal answered."""
    for request in read_requests(run.paths.round_plan(round_), run.hash):
        if not store.has(request.key):
            yield request


def unanswered_units(run: Run, round_: int, store: Store) -> set[int]:
    """The units of `round_` with a request that the store lacks."""
    left = set()
    for unit in load_plan(run, round_).units:
        requests = read_requests(run.paths.round_plan(round_), run.hash, unit.start, unit.end)
        if not all(store.has(request.key) for request in requests):
            left.add(unit.id)
    return left


def plan_round(run: Run, round_: int, requests: Iterable[Request]) -> RoundPlan:
    """Write the plan file and its units; the units come last, so that they imply the plan."""
    path = run.paths.round_plan(round_)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    with RequestWriter(path, run.hash) as writer:
        for request in requests:
            start = writer.append(request)
            entries.append(Entry(request.benchmark, request.endpoint, start, writer.offset))
    size = unit_size(len(entries), run.spec.run.shards, run.spec.run.unit_size)
    plan = RoundPlan(
        round=round_,
        run_hash=run.hash,
        requests=len(entries),
        plan_hash=file_hash(path),
        units=cut_units(entries, size),
    )
    write_text(run.paths.round_units(round_), plan.model_dump_json())
    return plan


def load_plan(run: Run, round_: int) -> RoundPlan:
    """The units of a round; raises StorageError when it was never planned."""
    path = run.paths.round_units(round_)
    try:
        return read_record(path, RoundPlan)
    except FileNotFoundError as error:
        raise StorageError(
            f"round {round_} of this run has no plan",
            cause="the planning job has not run, or failed",
            hint=f"evalhpc status {run.paths.root}",
        ) from error


def planned_rounds(run: Run) -> list[int]:
    """The rounds that have a complete plan, in order."""
    if not run.paths.plan.is_dir():
        return []
    numbers = (int(p.name) for p in run.paths.plan.iterdir() if p.name.isdigit())
    return sorted(n for n in numbers if run.paths.round_units(n).is_file())


def begun(run: Run, round_: int) -> bool:
    """Whether any shard has ever looked at this round."""
    return run.paths.round_leases(round_).exists()


def within_budget(run: Run) -> bool:
    """Whether another round may be planned; a resumed run has its budget anew."""
    used = rounds_since_resume(run.paths, planned_rounds(run))
    return used < run.spec.run.max_rounds


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
