"""Plans: ordered by cost, guessed at first and measured later; every request as it was asked."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from evalhpc.core.identity import Answer, Request, make_key
from evalhpc.errors import StorageError
from evalhpc.paths import RunPaths
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.requests_file import read_requests
from evalhpc.workflow.record import rounds
from evalhpc.workflow.record.jobs import record_job
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.rounds import (
    CUT_SHORT,
    load_plan,
    plan_round,
    planned_rounds,
    within_budget,
)
from evalhpc.workflow.record.run import Run
from tests.factories import make_spec

LENGTHS = (10, 400, 10, 90, 400, 90, 10)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of which nothing is planned."""
    spec = make_spec(run={"shards": 1})
    run = Run(RunPaths(tmp_path), spec, spec.digest())
    run.paths.journals.mkdir()
    return run


def asked(lengths: tuple[int, ...]) -> list[Request]:
    """Requests for so many tokens, in the harness's order."""
    return [
        Request(
            make_key(bytes([place]) * 16, 0), "b", "model", "POST", "/completions",
            json.dumps({"prompt": f"{place} what?", "max_tokens": length}).encode(),
        )
        for place, length in enumerate(lengths)
    ]  # fmt: skip


def units_of(run: Run, round_: int) -> list[list[Request]]:
    path = run.paths.round_plan(round_)
    return [
        list(read_requests(path, run.hash, unit.start, unit.end))
        for unit in load_plan(run, round_).units
    ]


def lengths_of(units: list[list[Request]]) -> list[list[int]]:
    return [[json.loads(request.body)["max_tokens"] for request in unit] for unit in units]


def test_a_plan_holds_the_harnesss_requests_the_costliest_first(run: Run) -> None:
    """Units are ranges of one sampling configuration; bytes and keys are as they came."""
    requests = asked(LENGTHS)
    plan = plan_round(run, 1, requests)
    units = units_of(run, 1)
    assert plan.requests == len(requests)
    assert lengths_of(units) == [[400], [400], [90], [90], [10], [10], [10]]
    ordered = [request for unit in units for request in unit]
    assert ordered == sorted(requests, key=lambda r: -json.loads(r.body)["max_tokens"])


def test_measured_latencies_decide_on_the_next_round(run: Run) -> None:
    """What took longest in an earlier round comes first, whatever its max_tokens promise."""
    requests = asked(LENGTHS)
    plan_round(run, 1, requests[:4])
    with JournalWriter.create(run.paths.journal(1, 0, 0), run.hash) as journal:
        for request, seconds in zip(requests, (9.0, 0.1, 9.0, 1.0), strict=False):
            journal.append(request.key, Answer(200, "application/json", b"{}", seconds))
    merge(run)
    plan_round(run, 2, requests[4:])
    assert lengths_of(units_of(run, 2)) == [[10], [90], [400]]


def test_an_empty_plan_has_no_units(run: Run) -> None:
    """A pass without a miss plans nothing."""
    assert plan_round(run, 1, []).units == ()


def with_rounds(folder: Path, sizes: list[int], limit: int) -> Run:
    """A run with rounds of so many requests, each asking again what the one before left."""
    spec = make_spec(run={"shards": 1, "max_rounds": limit})
    run = Run(RunPaths(folder), spec, spec.digest())
    run.paths.journals.mkdir()
    for number, size in enumerate(sizes, 1):
        plan_round(run, number, asked((10,) * size))
    return run


@pytest.mark.parametrize(
    ("sizes", "within"),
    [
        ([8, 8], False),  # the first answered nothing
        ([40, 38], False),  # too little
        ([40, 30], True),
        ([40, 30, 20], True),
        ([40, 30, 29], False),
    ],
)
def test_a_round_that_was_cut_short_but_got_on_is_not_wasted(
    tmp_path: Path, sizes: list[int], within: bool
) -> None:
    """Of two rounds allowed, only those count that answered less than a tenth, and the last."""
    assert within_budget(with_rounds(tmp_path, sizes, 2)) == within


def test_rounds_are_bounded_however_well_each_gets_on(tmp_path: Path) -> None:
    """Three times the limit is the end; a resume begins anew."""
    sizes = [100, 80, 64, 50, 40, 30]
    run = with_rounds(tmp_path, sizes[:-1], 2)
    assert within_budget(run)
    plan_round(run, len(sizes), asked((10,) * sizes[-1]))
    assert len(sizes) == CUT_SHORT * run.spec.run.max_rounds
    assert not within_budget(run)
    record_job(run.paths, "resume", 0, len(sizes), "slurm")
    assert within_budget(run)


def test_a_round_after_a_pass_counts(tmp_path: Path) -> None:
    """What follows a pass are new questions: a harness must not go on for ever."""
    run = with_rounds(tmp_path, [40, 30], 2)
    outcome = run.paths.outcome(1, run.spec.benchmarks[0].name)
    outcome.parent.mkdir(parents=True)
    outcome.write_text("{}")
    assert not within_budget(run)


def test_a_plan_that_is_written_again_is_whole_or_none(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two of its files, a planning job leaves no units of the plan before."""
    write = rounds._write
    killed = iter([False, True])

    def killed_second(*words: Any) -> list[int]:
        if next(killed):
            raise KeyboardInterrupt
        return write(*words)

    plan_round(run, 1, asked(LENGTHS))
    monkeypatch.setattr(rounds, "_write", killed_second)
    with pytest.raises(KeyboardInterrupt):
        plan_round(run, 1, asked(LENGTHS))
    assert planned_rounds(run) == []


def test_a_directory_is_shown_as_a_word_that_can_be_pasted(tmp_path: Path) -> None:
    """Hints are commands: blanks, quotes and dollars of a name do nothing in them."""
    spec = make_spec()
    run = Run(RunPaths(tmp_path / "a b'$(touch x)"), spec, spec.digest())
    assert shlex.split(f"evalhpc resume {run.word}") == ["evalhpc", "resume", str(run.paths.root)]
    with pytest.raises(StorageError) as refused:
        load_plan(run, 1)
    assert run.word in refused.value.hint
