"""Whether a harness settles: the same questions once their answers are there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from evalhpc.core.acceptance import Outcome
from evalhpc.core.difference import COMPARED, closest, comparison, parting
from evalhpc.errors import IntegrityError
from evalhpc.storage.atomic import write_text
from evalhpc.storage.requests_file import read_requests
from evalhpc.workflow.record.outcomes import outcome_before
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run


def settles(run: Run, number: int, outcomes: Sequence[Outcome]) -> bool:
    """Whether every miss of pass `number` can be the child of a dependent of the pass before."""
    return not any(_asks_anew(run, number, outcome) for outcome in outcomes)


def refuse_unsettled(run: Run, number: int, outcomes: Sequence[Outcome]) -> None:
    """Raise IntegrityError naming the first benchmark whose questions change by themselves."""
    for outcome in outcomes:
        name = outcome.benchmark
        previous = outcome_before(run, number, name)
        if previous is not None and _asks_anew(run, number, outcome):
            before = previous.number
            raise IntegrityError(
                f"{name} does not settle: it asked {outcome.misses} new questions in pass "
                f"{number}, though pass {before} had no open ends and all of its answers"
                + _difference(run, before, outcome),
                cause="the harness asks different questions each time (an unseeded shuffle, the "
                "time of day, an id), or an answer that they follow from is gone (a journal or "
                "store.h5 was damaged, removed or restored)",
                hint=f"less {run.paths.unsettled(number, name)}; give the harness a seed "
                "(params.seed; PYTHONHASHSEED is set already, and sitecustomize.py among its "
                "modules can seed the rest), or submit with --miss forward, where the model "
                "answers during the pass",
            )


def _difference(run: Run, before: int, outcome: Outcome) -> str:
    """The closest pair of an old question and a new one; the whole of it in unsettled.txt."""
    keys = {bytes.fromhex(key) for key in outcome.unused_keys}
    old = (
        request.body
        for round_ in planned_rounds(run)
        for request in read_requests(run.paths.round_plan(round_), run.hash)
        if request.key in keys
    )
    path = run.paths.misses(outcome.number, outcome.benchmark)
    new = (request.body for request in read_requests(path, run.hash))
    pair = closest(list(islice(old, COMPARED)), list(islice(new, COMPARED)))
    if pair is None:
        return ""
    labels = f"pass {before}", f"pass {outcome.number}"
    write_text(run.paths.unsettled(outcome.number, outcome.benchmark), comparison(*pair, labels))
    return "".join(f"\n  | {line}" for line in parting(*pair, labels).splitlines())


def _asks_anew(run: Run, number: int, outcome: Outcome) -> bool:
    """New questions in place of old ones, after a pass without dependents to explain them.

    An agent asks new questions after such a pass too, since a stub calls no tool and an answer
    may; but it asks all the old ones again.
    """
    before = outcome_before(run, number, outcome.benchmark)
    if before is None or before.dependents:
        return False
    return bool(outcome.misses and outcome.unused) and _has_new(run, number, outcome)


def _has_new(run: Run, number: int, outcome: Outcome) -> bool:
    """Whether a miss was never planned before: others are answers that damage took away."""
    planned = {
        request.key
        for round_ in planned_rounds(run)
        if round_ <= number
        for request in read_requests(run.paths.round_plan(round_), run.hash)
    }
    path = run.paths.misses(number, outcome.benchmark)
    return any(request.key not in planned for request in read_requests(path, run.hash))
