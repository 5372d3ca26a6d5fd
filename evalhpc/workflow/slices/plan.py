"""`run.shard_by: samples`: slices of the documents, and the plan that they leave behind.

Pass 0 has said what the unsharded harness asks, and of which documents. A slice may ask only what
is among that; what the slices leave unasked is the rest of an ordinary round 1.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from evalhpc.core.acceptance import Outcome
from evalhpc.core.identity import Request, split_key
from evalhpc.core.planning import RoundPlan
from evalhpc.core.slices import cut_slices
from evalhpc.errors import HarnessError, IntegrityError
from evalhpc.harness.selection import documents_of
from evalhpc.models.suite import Benchmark
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.storage.follow import QueueReader
from evalhpc.storage.requests_file import read_requests
from evalhpc.workflow.passes.live import settle_answered
from evalhpc.workflow.passes.passes import StillHeld, refuse_taken_over
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.outcomes import load_outcome
from evalhpc.workflow.record.rounds import plan_round
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.slices.listing import Slice, SliceList, SliceOutcome, slice_outcomes

log = logging.getLogger(__name__)


def cut(run: Run) -> list[Slice]:
    """After pass 0: each benchmark's documents, told from its output, into one slice a shard."""
    slices: list[Slice] = []
    for benchmark in run.spec.benchmarks:
        for number, documents in enumerate(_cut(run, benchmark)):
            path = run.paths.slice_documents(benchmark.name, number)
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(documents))
            slices.append(Slice(id=len(slices), benchmark=benchmark.name, number=number))
    return slices


def publish_slices(run: Run, slices: Iterable[Slice]) -> None:
    """Let shards lease them."""
    listed = SliceList(run_hash=run.hash, slices=tuple(slices))
    write_text(run.paths.slice_list, listed.model_dump_json())


def unsharded_requests(run: Run, benchmark: str) -> Counter[bytes]:
    """Hash → how often pass 0 has asked it: what a slice may ask."""
    misses = read_requests(run.paths.misses(0, benchmark), run.hash)
    return Counter(split_key(request.key)[0] for request in misses)


def is_open_ended(run: Run, benchmark: str) -> bool:
    """Whether pass 0 had questions that wait for an answer: then it does not know them all."""
    outcome = load_outcome(run, 0, benchmark)
    return outcome is None or outcome.dependents > 0


def plan_sliced(run: Run, still_held: StillHeld = lambda: True) -> RoundPlan:
    """Round 1: what pass 0 asked, and what followed in the slices; what is answered is done.

    Raises IntegrityError where a slice has asked something else than the unsharded harness;
    IncompleteError, and plans nothing, where the pass is not `still_held` by its shard.
    """
    refuse_foreign(slice_outcomes(run))
    merge(run)
    refuse_taken_over(still_held)
    requests = chain.from_iterable(_requests(run, b.name) for b in run.spec.benchmarks)
    return plan_round(run, 1, requests, partial(settle_answered, run))


def refuse_foreign(outcomes: Iterable[SliceOutcome]) -> None:
    """Raise IntegrityError where slices asked other questions than the unsharded harness."""
    asked, foreign = Counter[str](), Counter[str]()
    for outcome in outcomes:
        asked[outcome.benchmark] += outcome.asked
        foreign[outcome.benchmark] += outcome.foreign
    counts = [f"{foreign[n]} of {asked[n]} requests of {n}" for n in foreign if foreign[n]]
    if counts:
        raise _other_prompts(f"{', '.join(counts)} are none that the unsharded harness makes")


def refuse_unlike(run: Run, outcomes: Sequence[Outcome]) -> None:
    """After a pass over what the slices asked: raise IntegrityError where it asks otherwise.

    Only what followed an answer can still differ: all else was compared when it was asked.
    """
    counts = [
        f"{outcome.unused} answers of {outcome.benchmark} were not asked for by the unsharded "
        f"harness, which misses {outcome.misses} others"
        for outcome in outcomes
        if outcome.unused and outcome.exit_code == 0 and is_open_ended(run, outcome.benchmark)
    ]
    if counts:
        raise _other_prompts(", ".join(counts))


def refuse_unselective(outcome: SliceOutcome, path: Path) -> None:
    """Raise HarnessError for a harness that ended before it asked anything of its slice."""
    if outcome.exit_code and not outcome.asked:
        tail = "\n".join(f"  | {line}" for line in outcome.log_tail)
        raise HarnessError(
            f"the harness of {outcome.benchmark} exited with code {outcome.exit_code} when it was "
            f"given a slice of its documents; the end of its log:\n{tail}",
            cause="a version of the harness that cannot be told which documents to run",
            hint=f"less {path}; submit again with --shard-by requests",
        )


def _cut(run: Run, benchmark: Benchmark) -> list[dict[str, list[int]]]:
    selection = run.spec.harnesses[benchmark.harness].selection
    assert selection is not None, "refused at submission"
    documents = documents_of(selection, run.paths.pass_output(0, benchmark.name))
    slices = cut_slices(documents, run.spec.run.shards)
    count = sum(map(len, documents.values()))
    log.info("%s: %d documents in %d slices", benchmark.name, count, len(slices))
    return slices


def _requests(run: Run, benchmark: str) -> Iterator[Request]:
    planned: set[bytes] = set()
    for request in read_requests(run.paths.misses(0, benchmark), run.hash):
        planned.add(request.key)
        yield request
    with run.open_store() as store:
        for path in sorted((run.paths.slices / benchmark).glob("*-*/further.frames")):
            for request in QueueReader(path, run.hash).new():
                # One without an answer comes up again if the unsharded harness asks it, too.
                if request.key not in planned and store.has(request.key):
                    planned.add(request.key)
                    yield request


def _other_prompts(what: str) -> IntegrityError:
    return IntegrityError(
        f"--shard-by samples: {what}: there is no score",
        cause="the text of a prompt depends on the documents before it, as where few-shot examples "
        "are drawn at random in the order of the documents",
        hint="submit again with --shard-by requests, which keeps the unsharded prompts",
    )
