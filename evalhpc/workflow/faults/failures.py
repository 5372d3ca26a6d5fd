"""Requests that are given up for good: found, written down, and refused above the limit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING

from evalhpc.core.failures import Attempt, Failed, above_limit, given_up
from evalhpc.core.frames import FILE_HEADER_BYTES
from evalhpc.core.quoting import shell_word
from evalhpc.errors import IncompleteError
from evalhpc.paths import attempt_of
from evalhpc.storage.atomic import read_jsonl, write_text
from evalhpc.storage.requests_file import read_requests
from evalhpc.workflow.faults.shard_failures import failure_files
from evalhpc.workflow.record.jobs import recorded_jobs
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run

if TYPE_CHECKING:  # HDF5 is dear to import
    from evalhpc.storage.store import Store

#: Reasons that an error quotes; failures.jsonl has them all.
_QUOTED = 3


def failed_requests(run: Run, store: Store) -> dict[bytes, Failed]:
    """Key → Failed of what is given up for good since the run was last resumed.

    A request that was answered after all is not among them.
    """

    def telling(round_: int, suspects: Set[bytes]) -> bool:
        return _answered_some(run, round_) or all(
            request.key in suspects
            for request in read_requests(run.paths.round_plan(round_), run.hash)
        )

    attempts = [attempt for attempt in _attempts(run) if not store.has(attempt.key)]
    return given_up(attempts, telling)


def refuse_above_limit(run: Run, failed: Mapping[bytes, Failed]) -> None:
    """Write `failures.jsonl`; raise IncompleteError where more failed than the run allows."""
    write_failures(run, failed)
    if not failed:
        return
    planned = planned_counts(run)
    limit = run.spec.run.max_failures
    counts = Counter(request.benchmark for request in failed.values())
    names = above_limit(counts, planned, limit)
    if not names:
        return
    what = ", ".join(f"{counts[name]} of {planned[name]} requests of {name}" for name in names)
    share = max(counts[name] / planned[name] for name in names)
    allowed = f" (run.max_failures: {limit:g})" if limit else ""
    raise IncompleteError(
        f"{what} failed for good{allowed}: there is no score",
        cause=_reasons(failed),
        hint=f"less {shell_word(str(run.paths.failures))}; where the server can be helped: "
        f"evalhpc resume {run.word}; else submit again with "
        f"--set run.max_failures={_round_up(share):g}",
    )


def worth_another(run: Run, round_: int, missing: Mapping[bytes, str]) -> bool:
    """Whether to go on after a round that answered nothing; `missing`: key → benchmark.

    Only if its server was there and failed on each request by itself, and if either all had
    failed before, beside others that were answered, or the run allows so many to fail.
    """
    attempts = [attempt for attempt in _attempts(run) if attempt.fault != "unreachable"]
    if not missing.keys() <= {attempt.key for attempt in attempts if attempt.round == round_}:
        return False
    if missing.keys() <= {attempt.key for attempt in attempts if attempt.round < round_}:
        return True
    counts = Counter(missing.values())
    return not above_limit(counts, planned_counts(run), run.spec.run.max_failures)


def write_failures(run: Run, failed: Mapping[bytes, Failed]) -> None:
    """`failures.jsonl`: key, benchmark, endpoint, path, reason and rounds of each; or no file."""
    if not failed:
        run.paths.failures.unlink(missing_ok=True)
        return
    lines: dict[bytes, str] = {}
    for round_ in sorted({round_ for request in failed.values() for round_ in request.rounds}):
        for request in read_requests(run.paths.round_plan(round_), run.hash):
            if request.key in failed and request.key not in lines:
                of_it = failed[request.key]
                record = {
                    "key": request.key.hex(),
                    "benchmark": request.benchmark,
                    "endpoint": request.endpoint,
                    "path": request.path,
                    "reason": of_it.reason,
                    "rounds": of_it.rounds,
                }
                lines[request.key] = json.dumps(record)
    write_text(run.paths.failures, "".join(lines[key] + "\n" for key in sorted(lines)))


def planned_counts(run: Run) -> Counter[str]:
    """Benchmark → distinct requests that any round has planned."""
    benchmark_of = {
        request.key: request.benchmark
        for round_ in planned_rounds(run)
        for request in read_requests(run.paths.round_plan(round_), run.hash)
    }
    return Counter(benchmark_of.values())


def _attempts(run: Run) -> list[Attempt]:
    """What shards gave up in the rounds after the last resume."""
    resumed = [job.round for job in recorded_jobs(run.paths) if job.kind == "resume"]
    after = max(resumed, default=0)
    return [
        Attempt(
            round_,
            bytes.fromhex(record["key"]),
            record["benchmark"],
            record["fault"],
            record["reason"],
        )
        for (round_, _, _), path in failure_files(run)
        if round_ > after
        for record in read_jsonl(path)
        if "key" in record
    ]


def _answered_some(run: Run, round_: int) -> bool:
    """Whether any journal of the round holds an answer."""
    return any(
        path.stat().st_size > FILE_HEADER_BYTES
        for path in run.paths.journals.glob("*.journal")
        if (attempt := attempt_of(path)) is not None and attempt.round == round_
    )


def _reasons(failed: Mapping[bytes, Failed]) -> str:
    counts = Counter(request.reason for request in failed.values())
    quoted = [f"{reason} ({count})" for reason, count in counts.most_common(_QUOTED)]
    rest = len(counts) - len(quoted)
    return "; ".join(quoted) + (f"; and {rest} further reasons" if rest else "")


def _round_up(share: float) -> float:
    """A share that allows for this one, in few digits."""
    digits = 3
    return min(1.0, round(share + 0.5 / 10.0**digits, digits))
