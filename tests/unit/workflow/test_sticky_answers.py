"""An answer that a pass has used stays; where damage takes it away, that is no unseeded shuffle."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalhpc.core.acceptance import Outcome, failure_reason, verdict
from evalhpc.core.identity import Answer, Request, make_key
from evalhpc.errors import IntegrityError
from evalhpc.gateway.app import PassCounts, PassGateway
from evalhpc.http.messages import HttpReply, HttpRequest
from evalhpc.models.suite import Benchmark
from evalhpc.paths import RunPaths
from evalhpc.storage.follow import QueueWriter
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.requests_file import read_requests
from evalhpc.workflow.collect import verify
from evalhpc.workflow.collect.verify import journalled
from evalhpc.workflow.passes import passes
from evalhpc.workflow.passes.harness_run import Ended, Known, Place
from evalhpc.workflow.passes.settle import refuse_unsettled
from evalhpc.workflow.record.lost import orphaned
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.rounds import plan_misses
from evalhpc.workflow.record.run import Run
from tests.factories import make_spec


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose harness asks a question, and another about its answer, and then a third."""
    spec = make_spec(run={"shards": 2})
    run = Run(RunPaths(tmp_path), spec, spec.digest())
    for folder in run.paths.folders():
        folder.mkdir()
    monkeypatch.setattr(passes, "run_harness", turns(3))
    return run


def turns(count: int) -> Callable[..., object]:
    """A harness of so many turns."""

    async def harness(run: Run, benchmark: Benchmark, known: Known, place: Place) -> Ended:
        counts, used = PassCounts(), set[bytes]()
        gateway = PassGateway(
            benchmark.name, "model", "tiny", known.lookup, known.record_miss,
            counts=counts, used=used,
        )  # fmt: skip
        said = ""
        for turn in range(count):
            body = json.dumps({"model": "tiny", "prompt": f"{said} and {turn}?", "max_tokens": 5})
            request = HttpRequest("POST", "/v1/completions", (), body.encode())
            reply = gateway(request)
            assert isinstance(reply, HttpReply)
            said = json.loads(reply.body)["choices"][0]["text"]
        return Ended(0, counts, used, 0.0)

    return harness


def run_pass(run: Run, number: int) -> Outcome:
    (outcome,) = asyncio.run(passes.all_passes(run, number))
    return outcome


def new_answer() -> Answer:
    """As at a temperature above 0: another one each time."""
    text = {"choices": [{"index": 0, "text": secrets.token_hex(8)}]}
    return Answer(200, "application/json", json.dumps(text).encode())


def answer_round(run: Run, round_: int, shard: int = 1, attempt: int = 0) -> Path:
    """A shard's journal with an answer to each request of the round."""
    path = run.paths.journal(round_, shard, attempt)
    with JournalWriter.create(path, run.hash) as journal:
        for request in read_requests(run.paths.round_plan(round_), run.hash):
            journal.append(request.key, new_answer())
    return path


def settle(run: Run, first: int, last: int = 9) -> Outcome:
    """Rounds and passes from here on, as collectors run them, to the end."""
    for round_ in range(first, last):
        answer_round(run, round_)
        merge(run)
        outcome = run_pass(run, round_)
        if verdict(outcome) != "misses":
            return outcome
        refuse_unsettled(run, round_, [outcome])
        plan_misses(run, round_)
    raise AssertionError("it never settles")


def test_a_worker_that_wakes_up_replaces_no_answer_that_a_pass_has_used(run: Run) -> None:
    """Its answers to the unit that was stolen from it come first by name; the run settles."""
    run_pass(run, 0)
    plan_misses(run, 0)
    with JournalWriter.create(run.paths.journal(1, 0, 0), run.hash) as asleep:
        asleep.flush()
        answer_round(run, 1)
        merge(run)
        run_pass(run, 1)
        plan_misses(run, 1)
        for request in read_requests(run.paths.round_plan(1), run.hash):
            asleep.append(request.key, new_answer())
    outcome = settle(run, 2)
    assert (verdict(outcome), outcome.asked, outcome.orphaned) == ("final", 3, 0)


def test_what_comes_after_the_last_merge_counts_for_nothing(run: Run) -> None:
    """`verify` finds the answers of the store in the journals, and tells of the late ones; of a
    run without seals, which an earlier version made, the first by name counts."""
    run_pass(run, 0)
    plan_misses(run, 0)
    with JournalWriter.create(run.paths.journal(1, 0, 0), run.hash) as asleep:
        asleep.flush()
        settle(run, 1)
        with run.open_store() as store:
            stored = dict(store.pairs())
        for request in read_requests(run.paths.round_plan(1), run.hash):
            asleep.append(request.key, new_answer())
    answers, late = journalled(run)
    assert (answers, late) == (stored, "; 1 came later and count for nothing")
    merge(run)  # by a user who is curious
    assert journalled(run) == (stored, "")
    shutil.rmtree(run.paths.seals)
    assert journalled(run)[0] != stored


def test_a_shard_that_wakes_up_in_a_slice_that_was_taken_from_it_fails_no_pass(run: Run) -> None:
    """What it went on to ask follows from answers that do not count; in a slice that was run once
    such a question is a sign of other prompts."""
    keys = [make_key(bytes([number]) * 16, 0) for number in range(3)]
    for number, attempts in ((1, 1), (2, 2)):
        for attempt in range(attempts):
            run.paths.slice_attempt("arc", number, attempt).mkdir(parents=True)
        first = run.paths.slice_attempt("arc", number, 0)
        writer = QueueWriter(first / "further.frames", run.hash)
        writer.append(Request(keys[number], "arc", "model", "POST", "/completions", b"{}"))
        writer.close()
    assert orphaned(run, "arc", keys) == {keys[2]}


@pytest.mark.parametrize("shard_by", ["samples", "requests"])
def test_only_a_slice_may_leave_answers_to_what_nobody_planned(
    tmp_path: Path, shard_by: str
) -> None:
    """Of a shard that woke up when round 1 was planned; else such an answer was put there."""
    spec = make_spec(run={"shard_by": shard_by})
    run = Run(RunPaths(tmp_path), spec, spec.digest())
    certificate: Any = SimpleNamespace(failed=(), counts=SimpleNamespace(planned=0))
    answers = {make_key(bytes(16), 0): b""}
    if shard_by == "samples":
        assert "1 more" in verify._check_complete(run, certificate, answers)
        return
    with pytest.raises(IntegrityError, match="belong to no planned request"):
        verify._check_complete(run, certificate, answers)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_a_run_settles_although_damage_took_an_answer_that_a_pass_had_used(run: Run) -> None:
    """It is asked again and answered otherwise: what followed from it is counted, and no sign of
    a harness that asks by chance."""
    run_pass(run, 0)
    plan_misses(run, 0)
    used = answer_round(run, 1)
    merge(run)
    run_pass(run, 1)
    plan_misses(run, 1)
    damage(used)
    outcome = settle(run, 2)
    assert verdict(outcome) == "final"
    assert (outcome.asked, outcome.unused, outcome.orphaned) == (3, 0, 1)


def test_a_journal_that_was_removed_is_such_damage_too(run: Run) -> None:
    """Nothing of it is left to fail a checksum; its seal knows of it."""
    run_pass(run, 0)
    plan_misses(run, 0)
    used = answer_round(run, 1)
    merge(run)
    run_pass(run, 1)
    plan_misses(run, 1)
    used.unlink()
    outcome = settle(run, 2)
    assert (verdict(outcome), outcome.orphaned) == ("final", 1)


def test_damage_excuses_no_question_that_was_asked_after_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A harness that asks by chance is refused as ever, and damage is named as a cause."""
    run_pass(run, 0)
    plan_misses(run, 0)
    used = answer_round(run, 1)
    merge(run)
    run_pass(run, 1)
    plan_misses(run, 1)
    damage(used)
    for round_ in (2, 3, 4):
        answer_round(run, round_)
        merge(run)
        run_pass(run, round_)
        plan_misses(run, round_)
    answer_round(run, 5)
    merge(run)
    monkeypatch.setattr(passes, "run_harness", turns(2))
    outcome = run_pass(run, 5)
    assert (verdict(outcome), outcome.unused, outcome.orphaned) == ("failed", 1, 1)
    assert "damaged" in failure_reason(outcome)[1]


def test_a_store_that_is_unreadable_stops_no_merge(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """It is made anew from the journals, which is said; one of another run still stops it."""
    run_pass(run, 0)
    plan_misses(run, 0)
    answer_round(run, 1)
    merge(run)
    whole = run.paths.store.read_bytes()
    for bad in (b"", b"x" * 5000, bytes(200) + whole[200:]):
        run.paths.store.write_bytes(bad)
        caplog.clear()
        merge(run)
        assert run.paths.store.read_bytes() == whole
        assert "made anew from the journals" in caplog.text
    other = Run(run.paths, run.spec, "cd" * 32)
    with pytest.raises(IntegrityError, match="belongs to run"):
        merge(other)
