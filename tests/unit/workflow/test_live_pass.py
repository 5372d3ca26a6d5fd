"""Passes whose harness waits for the model (`--miss wait`, `forward`): what ends them, what counts,
who may plan or fail them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from evalhpc.core.identity import Answer, Request, make_key, request_hash
from evalhpc.core.planning import Unit
from evalhpc.errors import EvalhpcError, HarnessError, IncompleteError, IntegrityError, StorageError
from evalhpc.gateway.app import PassCounts, PassGateway
from evalhpc.http.messages import HttpReply, HttpRequest
from evalhpc.models.certificate import Certificate
from evalhpc.models.suite import Benchmark
from evalhpc.paths import RunPaths
from evalhpc.storage.follow import JournalFollower, QueueReader
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.leases import LeaseBook
from evalhpc.worker.loop import Failure
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.answer.queue import QUEUE_ROUND, Queue, queued_answers
from evalhpc.workflow.answer.queue_desk import QueueDesk
from evalhpc.workflow.collect import collect, verify
from evalhpc.workflow.node import jobs
from evalhpc.workflow.passes import passes
from evalhpc.workflow.passes.harness_run import Ended, Known, Place
from evalhpc.workflow.passes.live import is_live_result
from evalhpc.workflow.passes.passes import run_pass
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.outcomes import load_outcome
from evalhpc.workflow.record.rounds import plan_round, planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.liveness import watched
from evalhpc.workflow.serve.replica import Replicas
from evalhpc.workflow.shard import inline, sliced, waiting
from evalhpc.workflow.shard.warm import warm_pass
from evalhpc.workflow.slices import plan as slice_plan
from tests.factories import make_spec

NO_REPLICAS = cast("Replicas", SimpleNamespace(start=lambda: None))
PATIENCE = 60


def run_in(root: Path, **settings: object) -> Run:
    spec = make_spec(run={"miss": "wait", "shards": 2, **settings})
    run = Run(RunPaths(root), spec, spec.digest())
    for folder in run.paths.folders():
        folder.mkdir(parents=True)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path / "run")


def question(text: str) -> Request:
    body = json.dumps({"model": "tiny", "prompt": text}).encode()
    hash_ = request_hash("arc", "model", "POST", "/completions", body)
    return Request(make_key(hash_, 0), "arc", "model", "POST", "/completions", body)


def saying(text: str) -> Answer:
    body = json.dumps({"choices": [{"text": text}]}).encode()
    return Answer(200, "application/json", body)


def journal(run: Run, shard: int, answers: dict[bytes, str], round_: int = QUEUE_ROUND) -> None:
    with JournalWriter.create(run.paths.journal(round_, shard, 0), run.hash) as writer:
        for key, text in answers.items():
            writer.append(key, saying(text))


@contextmanager
def at_desk(run: Run, shard: int) -> Iterator[QueueDesk]:
    desk = QueueDesk(run, shard)
    with desk:
        yield desk


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def with_queue(run: Run, harness: Callable[[Queue], Awaitable[None]]) -> None:
    """What `run_pass` does with a queue, for a harness of the test's own."""

    async def passing() -> None:
        async with queued_answers(run) as queue:

            async def main() -> None:
                await asyncio.wait_for(harness(queue), PATIENCE)

            await watched(main(), [queue.follow()])

    asyncio.run(passing())


# --- who plans the pass, and who may fail it


def steal(run: Run) -> None:
    """As a shard does that has seen no heartbeat of the one that runs pass 0."""
    (run.paths.round_leases(0) / "0.stolen-1").touch()


class Child:
    """Stands for the process of the pass: it does `work`, and ends with `code` (None: never)."""

    def __init__(self, code: int | None, work: Callable[[], object] = lambda: None) -> None:
        self.returncode = code
        self.work = work
        self.stopped = False

    def start(self, command: list[str], **_: Any) -> Child:
        self.lease = Path(command[command.index("--lease") + 1])
        self.work()
        return self

    def poll(self) -> int | None:
        return self.returncode

    def stop(self, _child: object) -> None:
        self.stopped = True


def run_child(desk: QueueDesk, child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "process", child)
    monkeypatch.setattr(waiting, "_LOOK", 0.01)
    assert desk.claim_pass()
    asyncio.run(asyncio.wait_for(waiting._pass(desk), PATIENCE))


def fail(run: Run) -> None:
    note_failure(run, HarnessError("no such task"))


def test_a_pass_that_failed_is_run_again_by_whoever_resumes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It planned nothing, so nothing is done: the next life of any shard takes it up."""
    with at_desk(run, 0) as desk:
        run_child(desk, Child(8, lambda: fail(run)), monkeypatch)
        assert not desk.pass_done()
    assert json.loads(run.paths.failure.read_text())["what"] == "no such task"
    run.paths.failure.unlink()  # as `evalhpc resume` does
    with at_desk(run, 1) as resumed:
        assert not resumed.over()
        assert resumed.claim_pass()


def test_a_pass_that_planned_is_done_for_good(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody runs it a second time."""
    with at_desk(run, 0) as desk:
        run_child(desk, Child(0, lambda: plan_round(run, 1, [question("a")])), monkeypatch)
    assert not run.paths.failure.exists()
    with at_desk(run, 1) as other:
        assert other.pass_done()


@pytest.mark.parametrize("leaving", [False, True])
def test_a_pass_that_ends_without_a_word_fails_the_run_unless_its_shard_is_to_end(
    leaving: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preemption ends the pass beside its shard, and others take it up."""
    with at_desk(run, 0) as desk:
        desk.leaving = leaving
        run_child(desk, Child(143), monkeypatch)
    assert run.paths.failure.exists() is not leaving


@pytest.mark.parametrize("code", [None, 5])
def test_a_pass_that_was_taken_over_is_stopped_and_fails_nothing(
    code: int | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would wait for answers to a queue that nobody looks at any more."""
    child = Child(code, lambda: steal(run))
    with at_desk(run, 0) as desk:
        run_child(desk, child, monkeypatch)
    assert child.stopped
    assert child.lease == run.paths.round_leases(0) / "0.lease"
    assert not run.paths.failure.exists()


@pytest.mark.parametrize("error", [HarnessError("harness"), ValueError("bug")])
@pytest.mark.parametrize("stolen", [False, True])
def test_only_who_holds_the_pass_says_why_it_failed(
    stolen: bool, error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a pass goes on while its shard sleeps and another one takes the pass over."""

    def broken(*_: object) -> None:
        raise error

    LeaseBook(run.paths.round_leases(0), "00000", 60).claim(0)
    if stolen:
        steal(run)
    monkeypatch.setattr(jobs, "open_run", lambda _root: run)
    monkeypatch.setattr(jobs, "_plan", broken)
    lease = run.paths.round_leases(0) / "0.lease"
    if isinstance(error, EvalhpcError):
        assert jobs.planning(run.paths.root, lease) == error.exit_code
    else:
        with pytest.raises(ValueError, match="bug"):
            jobs.planning(run.paths.root, lease)
    assert run.paths.failure.exists() is not stolen


@pytest.mark.parametrize("stolen", [False, True])
def test_an_inline_pass_that_was_taken_over_goes_on_with_the_others_plan(
    stolen: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder was moved aside while it slept: no failure of a run that is well."""

    def plan_first(run: Run, _replicas: object, still_held: Callable[[], bool]) -> None:
        if stolen:
            steal(run)
            plan_round(run, 1, [question("a")])
        assert still_held() is not stolen
        raise StorageError("cannot use misses.frames: No such file or directory")

    monkeypatch.setattr(inline, "plan_first", plan_first)
    monkeypatch.setattr(inline, "_LOOK", 0.01)
    if stolen:
        assert inline.plan_inline(run, 0, NO_REPLICAS)
    else:
        with pytest.raises(StorageError):
            inline.plan_inline(run, 0, NO_REPLICAS)
    assert run.paths.failure.exists() is not stolen


def test_what_was_planned_by_one_that_died_is_not_planned_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard looks for a plan, another one plans and ends, and the shard gets the pass."""
    looks = iter([[], [1]])
    monkeypatch.setattr(inline, "planned_rounds", lambda _run: next(looks))
    monkeypatch.setattr(inline, "_plan", lambda *_: pytest.fail("planned again"))
    assert inline.plan_inline(run, 0, NO_REPLICAS)


@pytest.mark.parametrize("planned", [False, True])
def test_the_plan_of_slices_is_made_and_failed_by_its_holder_alone(
    planned: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another shard may have planned by the time that this one gets to it, or take it over."""

    def plan_sliced(_run: Run, _still_held: object) -> None:
        raise StorageError("cannot use requests.frames")

    desk = SimpleNamespace(
        run=run, shard=0, take_slice=lambda: None, all_done=lambda: True, claim_pass=lambda: True,
        holds_pass=lambda: False,
    )  # fmt: skip
    looks = iter([[], [1] if planned else [], [], []])
    monkeypatch.setattr(sliced, "planned_rounds", lambda _run: next(looks))
    monkeypatch.setattr(sliced, "plan_sliced", plan_sliced)
    assert sliced._next(cast("sliced.SliceDesk", desk), warm=False) is None
    assert not run.paths.failure.exists()
    if not planned:
        desk.holds_pass = lambda: True
        with pytest.raises(StorageError):
            sliced._next(cast("sliced.SliceDesk", desk), warm=False)
        assert run.paths.failure.exists()


def test_who_slept_while_it_planned_slices_plans_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another shard has planned by then, and shards work on its units."""
    plan_round(run, 1, [question("a")])
    monkeypatch.setattr(slice_plan, "plan_round", lambda *_: pytest.fail("planned again"))
    desk = SimpleNamespace(run=run, holds_pass=lambda: False)
    assert not sliced._plan(cast("sliced.SliceDesk", desk))


def test_a_warm_pass_that_was_taken_over_plans_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its round is answered, but another shard runs the pass that follows."""
    journal(run, 0, {question("a").key: "yes"}, round_=1)
    plan_round(run, 1, [question("a")])
    monkeypatch.setattr(passes, "_fresh_folder", lambda *_: pytest.fail("took a folder away"))
    desk = SimpleNamespace(
        run=run, round=1, holds_pass=lambda: False, settle_pass=lambda: None
    )  # fmt: skip
    with pytest.raises(IncompleteError, match="taken over"):
        asyncio.run(warm_pass(cast("Desk", desk)))
    assert planned_rounds(run) == [1]


def test_who_lost_the_pass_begins_no_benchmark_and_plans_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders and the plan are another shard's by now."""
    held = iter([True, False])
    monkeypatch.setattr(passes, "_fresh_folder", lambda *_: pytest.fail("took a folder away"))
    with pytest.raises(IncompleteError, match="taken over"):
        run_pass(run, 0, None, lambda: False)
    monkeypatch.setattr(collect, "run_pass", lambda *_: [])
    with pytest.raises(IncompleteError, match="taken over"):
        collect.plan_first(run, NO_REPLICAS, lambda: next(held) and next(held))
    assert planned_rounds(run) == []


# --- answers while a harness waits


def test_an_answer_that_comes_before_its_question_is_kept(run: Run) -> None:
    """Another shard had it in work for an earlier attempt; it is not asked a second time."""

    async def harness(queue: Queue) -> None:
        first = asyncio.create_task(queue(question("first")))
        journal(run, 0, {question("early").key: "Y"})
        await until(lambda: bool(queue._early))
        assert await queue(question("early")) == saying("Y")
        journal(run, 1, {question("first").key: "x", question("early").key: "Z"})
        assert await first == saying("x")

    with_queue(run, harness)
    asked = QueueReader(run.paths.queue(0), run.hash).new()
    assert [request.key for request in asked] == [question("first").key]


def test_what_the_gateway_has_already_is_not_kept(run: Run) -> None:
    """A second attempt passes over everything that the first one had answered."""
    journal(run, 0, {question("old").key: "old"})
    merge(run)

    async def harness(queue: Queue) -> None:
        asking = asyncio.create_task(queue(question("new")))
        journal(run, 1, {question("new").key: "new"})
        assert await asking == saying("new")
        assert not queue._early

    with_queue(run, harness)


def test_a_failing_file_system_is_looked_at_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error while requests are written, one while answers are read: the harness gets all."""
    errors = {"flush": 1, "read": 2}

    def failing(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            errors[kind] -= 1
            if errors[kind] >= 0:
                raise StorageError("Stale file handle", transient=True)
            return real(*args)

        return call

    monkeypatch.setattr(JournalFollower, "new", failing("read", JournalFollower.new))

    async def harness(queue: Queue) -> None:
        queue._writer.flush = failing("flush", queue._writer.flush)  # type: ignore[method-assign]  # a full disk
        asking = asyncio.create_task(queue(question("a")))
        journal(run, 0, {question("a").key: "yes"})
        assert await asking == saying("yes")
        reader = QueueReader(run.paths.queue(0), run.hash)
        assert [request.key for request in reader.new()] == [question("a").key]

    with_queue(run, harness)
    assert max(errors.values()) < 0


def test_a_file_system_that_stays_away_ends_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness would wait for hours, and the models with it."""
    run = run_in(tmp_path / "run", lease_timeout=0.2)

    def away(_: object) -> None:
        raise StorageError("Stale file handle", transient=True)

    monkeypatch.setattr(JournalFollower, "new", away)
    journal(run, 0, {})

    async def harness(queue: Queue) -> None:
        await queue(question("a"))

    with pytest.raises(StorageError, match="Stale"):
        with_queue(run, harness)


def test_an_answer_that_its_journal_lost_is_asked_again(tmp_path: Path) -> None:
    """Its unit is done, but what the journal has of it is damaged: it is a further unit."""
    run = run_in(tmp_path / "run", lease_timeout=0.4)
    units: list[Unit] = []

    async def answers(desk: QueueDesk, queue: Queue) -> None:
        asking = asyncio.create_task(queue(question("a")))
        for text in ("", "again"):
            taken = await desk.take("model")
            assert taken is not None
            units.append(taken[0])
            if text:
                desk.record(taken[1][0].key, saying(text))
            await desk.settle(taken[0])
        assert await asking == saying("again")

    with at_desk(run, 0) as desk:

        async def harness(queue: Queue) -> None:
            try:
                await asyncio.wait_for(answers(desk, queue), PATIENCE / 2)
            finally:
                desk.leaving = True

        with_queue(run, harness)
    assert len({unit.id for unit in units}) == 2


def test_a_request_is_noted_as_given_up_before_its_unit_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sees a unit that is done finds an answer, or why there is none."""
    noted: list[bool] = []
    monkeypatch.setattr(
        LeaseBook, "done",
        lambda *_: noted.append(run.paths.shard_failures(QUEUE_ROUND, 0, 0).exists()),
    )  # fmt: skip

    async def work(desk: QueueDesk, queue: Queue) -> None:
        asking = asyncio.create_task(queue(question("a")))
        taken = await desk.take("model")
        assert taken is not None
        desk.counts.failures.append(Failure(question("a").key, "arc", "refused", "failed"))
        await desk.settle(taken[0])
        assert await asking is None

    with at_desk(run, 0) as desk:
        with_queue(run, lambda queue: work(desk, queue))
    assert noted == [True]


# --- what counts


def waiting_harness(
    run: Run, given: list[str], *, twice: bool = True
) -> Callable[..., Awaitable[Ended]]:
    """Asks one question. Shard 1 answers it; then shard 0, whose answer is the first by name."""

    async def harness(_run: Run, benchmark: Benchmark, known: Known, _place: Place) -> Ended:
        counts, used = PassCounts(), set[bytes]()
        gateway = PassGateway(
            benchmark.name, "model", "tiny", known.lookup, known.record_miss,
            forward=known.forward, counts=counts, used=used,
        )  # fmt: skip
        asked = question("a")
        if not given:
            journal(run, 1, {asked.key: "Z"})
        reply = gateway(HttpRequest("POST", "/v1/completions", (), asked.body))
        answer = reply if isinstance(reply, HttpReply) else await reply
        if twice and not given:
            journal(run, 0, {asked.key: "Y"})
        given.append(json.loads(answer.body)["choices"][0]["text"])
        return Ended(0, counts, used, 0.0)

    return harness


def test_a_harness_that_was_given_what_does_not_count_is_run_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards answered: its last run is over the answer that every merge keeps."""
    given: list[str] = []
    monkeypatch.setattr(passes, "run_harness", waiting_harness(run, given))
    assert collect.plan_first(run, NO_REPLICAS).requests == 1
    assert given == ["Z", "Y"]
    with run.open_store() as store:
        assert store.get(question("a").key) == saying("Y")
    (outcome,) = run_pass(run, 1)  # the collector's: it is there already
    assert (outcome.number, len(given)) == (0, 2)


def test_a_benchmark_that_went_well_is_not_run_again_by_the_next_attempt(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt before was interrupted in another benchmark; nothing is planned yet."""
    given: list[str] = []
    monkeypatch.setattr(passes, "run_harness", waiting_harness(run, given, twice=False))
    outcomes = run_pass(run, 0)
    merge(run)
    assert run_pass(run, 0) == outcomes
    assert given == ["Z"]


def test_a_live_pass_over_other_answers_is_no_result(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the plan came about: what the harness was given is compared with the store."""
    monkeypatch.setattr(passes, "run_harness", waiting_harness(run, []))
    (outcome,) = run_pass(run, 0)
    assert (outcome.live, outcome.misses) == (1, 0)
    merge(run)
    plan_round(run, 1, [question("a")])
    assert not is_live_result(run, [outcome])
    journal_of_0 = run.paths.journal(QUEUE_ROUND, 0, 0)
    for path in (journal_of_0, run.paths.store):
        path.unlink()
    merge(run)
    assert is_live_result(run, [outcome])
    assert load_outcome(run, 0, "arc") == outcome


def certificate(planned: int) -> Certificate:
    return cast("Certificate", SimpleNamespace(failed=(), counts=SimpleNamespace(planned=planned)))


@pytest.mark.parametrize("miss", ["forward", "wait", "stub"])
def test_answers_of_an_interrupted_live_pass_are_counted_beside_the_plan(
    miss: str, tmp_path: Path
) -> None:
    """The next attempt asked in other words; without live answers, such an answer is a forgery."""
    run = run_in(tmp_path / "run", miss=miss)
    journal(run, 0, {question("shuffled one way").key: "a"})
    journal(run, 1, {question("another way").key: "b"})
    merge(run)
    plan_round(run, 1, [question("another way")])
    answers, _ = verify.journalled(run)
    if miss == "stub":
        with pytest.raises(IntegrityError, match="1 answers in the journals belong to no"):
            verify._check_complete(run, certificate(1), answers)
    else:
        said = verify._check_complete(run, certificate(1), answers)
        assert said == (
            "1 planned, 1 answered, none missing or doubled; 1 more of passes that were interrupted"
        )
