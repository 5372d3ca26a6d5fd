"""One pass: every benchmark's harness, unmodified, against a gateway over the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop

from evalhpc.core.acceptance import Outcome, verdict
from evalhpc.core.planning import unused_answers, unused_repeats
from evalhpc.errors import IncompleteError, StorageError
from evalhpc.gateway.app import Forward
from evalhpc.models.suite import Benchmark
from evalhpc.storage.atomic import remove_temporaries, storage_errors, sync_files, write_text
from evalhpc.storage.outputs import plain_files
from evalhpc.storage.requests_file import RequestWriter
from evalhpc.storage.scan import files_with_stubs
from evalhpc.storage.store import Store
from evalhpc.storage.unpacking import Budget
from evalhpc.workflow.answer.queue import queued_answers
from evalhpc.workflow.faults.failures import failed_requests
from evalhpc.workflow.passes.harness_run import (
    Known,
    Place,
    log_tail,
    output_bounds,
    run_harness,
)
from evalhpc.workflow.passes.live import Given, live_answers
from evalhpc.workflow.passes.redacting import redact_interrupted
from evalhpc.workflow.record.lost import orphaned
from evalhpc.workflow.record.outcomes import load_outcome, outcome_before
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import until_signalled
from evalhpc.workflow.record.stored import Stored, asked_root, stored_answers
from evalhpc.workflow.serve.liveness import watched
from evalhpc.workflow.serve.replica import Endpoint

log = logging.getLogger(__name__)

#: Whether whoever runs a pass still may: no other shard has taken it over.
StillHeld = Callable[[], bool]

#: Unused answers that an outcome names.
_SHOWN = 24


@dataclass(frozen=True)
class _Known:
    """What every benchmark of one pass is answered from."""

    store: Store
    failed: Mapping[bytes, str]  # key → why it was given up for good
    stored: Mapping[str, Stored]


def run_pass(
    run: Run,
    number: int,
    endpoints: Mapping[str, Endpoint] | None = None,
    still_held: StillHeld = lambda: True,
) -> list[Outcome]:
    """Run pass `number` of every benchmark; one that went well before is not run again.

    One that is final over the same answers has the outcome of its own, earlier pass. With
    `endpoints` its misses are answered live. Raises IncompleteError before the next benchmark
    once the pass is not `still_held`.
    """
    return uvloop.run(until_signalled(_passes(run, number, endpoints, still_held)))


async def _passes(
    run: Run, number: int, endpoints: Mapping[str, Endpoint] | None, still_held: StillHeld
) -> list[Outcome]:
    if run.spec.run.miss == "wait" and number == 0:
        async with queued_answers(run) as queue:
            passes = all_passes(run, number, queue, still_held)
            return await watched(passes, [queue.follow()])
    if endpoints is None:
        return await all_passes(run, number, still_held=still_held)
    async with live_answers(run, number, endpoints) as live:
        return await all_passes(run, number, live, still_held)


def refuse_taken_over(still_held: StillHeld) -> None:
    """Raises IncompleteError where another shard runs the pass by now."""
    if not still_held():
        raise IncompleteError(
            "the pass was taken over by another shard",
            cause="the heartbeat of this one stood still for longer than run.lease_timeout",
        )


async def all_passes(
    run: Run, number: int, live: Forward | None = None, still_held: StillHeld = lambda: True
) -> list[Outcome]:
    """`run_pass` for a caller that has an event loop."""
    # A fixed port serves one gateway at a time.
    fixed = run.spec.site.gateway.port != 0
    at_once = asyncio.Semaphore(1 if fixed else run.spec.site.resources.planning.cpus)

    async def one(benchmark: Benchmark) -> Outcome:
        async with at_once:
            await asyncio.to_thread(refuse_taken_over, still_held)
            return await _benchmark_pass(run, number, benchmark, known, live)

    with run.open_store() as store:
        failed = failed_requests(run, store)
        reasons = {key: request.reason for key, request in failed.items()}
        known = _Known(store, reasons, stored_answers(run, store, failed))
        log.info("pass %d: %d benchmarks, %d answers", number, len(run.spec.benchmarks), len(store))
        tasks = [asyncio.create_task(one(b)) for b in run.spec.benchmarks]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _benchmark_pass(
    run: Run, number: int, benchmark: Benchmark, known: _Known, live: Forward | None
) -> Outcome:
    if live is None:
        root: str | None = known.stored[benchmark.name].root
    else:  # nothing is planned yet
        root = asked_root(run, known.store, number, benchmark.name)
    done = _done_before(run, number, benchmark.name, root)
    if done is not None:
        log.info("pass %d of %s is there already", done.number, benchmark.name)
        return done
    await asyncio.to_thread(_fresh_folder, run, number, benchmark.name)
    outcome = await _with_gateway(run, number, benchmark, known, live)
    if verdict(outcome) == "final":
        # Its outcome vouches for them, after a crash of the file server too.
        await asyncio.to_thread(_sync, run.paths.pass_output(number, benchmark.name))
    write_text(run.paths.outcome(number, benchmark.name), outcome.model_dump_json(indent=1))
    log.info(
        "pass %d of %s: asked %d, answered %d, misses %d, dependents %d, exit code %d, %.1f s",
        number, benchmark.name, outcome.asked, outcome.answered, outcome.misses,
        outcome.dependents, outcome.exit_code, outcome.seconds,
    )  # fmt: skip
    return outcome


def _done_before(run: Run, number: int, benchmark: str, root: str | None) -> Outcome | None:
    """The outcome of this pass, or of an earlier and final one, over the answers of `root`.

    An outcome stands for the answers that it was made from, and for no others.
    """
    same = load_outcome(run, number, benchmark)
    done = same or outcome_before(run, number, benchmark)
    if done is None or done.store_root != root:
        return None
    good = ("final", "misses") if same is not None else ("final",)
    return done if verdict(done) in good else None


async def _with_gateway(
    run: Run, number: int, benchmark: Benchmark, known: _Known, live: Forward | None
) -> Outcome:
    paths = run.paths
    with RequestWriter(paths.misses(number, benchmark.name), run.hash) as misses:
        place = Place(
            output=paths.pass_output(number, benchmark.name),
            log=paths.harness_log(number, benchmark.name),
            progress=paths.pass_progress(number, benchmark.name),
            port=run.spec.site.gateway.port,
            asked=lambda: misses.offset,
        )
        given = None if live is None else Given(known.store.get, live)
        if given is None:
            source = Known(known.store.get, misses.append, None, known.failed)
        else:
            source = Known(given.lookup, misses.append, given.ask, known.failed)
        ended = await run_harness(run, benchmark, source, place)
    code, counts, used = ended.exit_code, ended.counts, ended.used
    final = code == 0 and not counts.misses
    stored = known.stored[benchmark.name].keys if code == 0 else []
    nobody_asked = unused_answers(stored, used)
    orphans = orphaned(run, benchmark.name, nobody_asked)
    unused = [key for key in nobody_asked if key not in orphans]
    return Outcome(
        benchmark=benchmark.name,
        number=number,
        exit_code=code,
        asked=counts.asked,
        answered=counts.answered,
        live=counts.live,
        failed=counts.failed,
        misses=counts.misses,
        dependents=counts.dependents,
        stub_files=files_with_stubs(place.output, _unpackable(run)) if final else (),
        unused=len(unused),
        unused_keys=tuple(key.hex() for key in unused[:_SHOWN]),
        orphaned=len(orphans),
        unused_repeats=len(unused_repeats(stored, used)),
        store_root=known.stored[benchmark.name].root if given is None else given.root(),
        seconds=ended.seconds,
        log_tail=log_tail(place.log) if code else (),
    )


def _sync(output: Path) -> None:
    with storage_errors(output):
        sync_files(output, plain_files(output))


def _unpackable(run: Run) -> Budget:
    return Budget(output_bounds(run).bytes)


def _fresh_folder(run: Run, number: int, benchmark: str) -> None:
    """An empty output folder; what an interrupted pass left is moved aside, never reused."""
    folder = run.paths.pass_dir(number, benchmark)
    if folder.exists():
        aside = 1
        while (target := folder.with_name(f"{benchmark}.interrupted-{aside}")).exists():
            aside += 1
        folder.rename(target)
        remove_temporaries(target)
        redact_interrupted(run, target)
    try:
        run.paths.pass_output(number, benchmark).mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"cannot create {folder}: {error.strerror}",
            cause="the run directory is not writable, or its file system is full",
            hint="free some space, then: evalhpc resume RUN",
        ) from error
