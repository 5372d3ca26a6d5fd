"""A shard's desk: what it says is done is durable, at the price of few flushes."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalhpc.core.identity import Answer, Request, make_key
from evalhpc.core.planning import Unit
from evalhpc.errors import EndpointError, StorageError
from evalhpc.paths import RunPaths
from evalhpc.storage.journal import JournalWriter, read_journal
from evalhpc.storage.round_view import done_units, worker_stats
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.record.rounds import plan_round
from evalhpc.workflow.record.run import Run
from tests.factories import make_spec

UNITS = 8
ANSWER = Answer(200, "application/json", b"{}")


def planned(root: Path, endpoints: list[str], **settings: object) -> Run:
    """A run whose first round has a unit of one request for each of the endpoints."""
    spec = make_spec(run={"unit_size": 1, **settings})
    run = Run(RunPaths(root), spec, spec.digest())
    run.paths.journals.mkdir()
    keys = [make_key(bytes([number]) * 16, 0) for number in range(len(endpoints))]
    requests = (
        Request(key, "b", endpoint, "POST", "/completions", b"{}")
        for key, endpoint in zip(keys, endpoints, strict=True)
    )
    plan_round(run, 1, requests)
    return run


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk for a round of eight units of one request each."""
    with Desk(planned(tmp_path, ["model"] * UNITS), 1, 0) as opened:
        yield opened


async def answered(desk: Desk) -> list[Unit]:
    """Every unit of the round, its answer handed to the journal."""
    units = []
    while (taken := await desk.take()) is not None:
        unit, (request,) = taken
        desk.record(request.key, ANSWER)
        units.append(unit)
    return units


def test_units_that_end_together_share_a_flush(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight units that end at once take two flushes, and all are done with their answers kept."""
    flushes = []
    flush = JournalWriter.flush

    def counted(journal: JournalWriter, *, sync: bool = True) -> None:
        if threading.current_thread().name.startswith("asyncio"):  # not the heartbeat
            flushes.append(sync)
        flush(journal, sync=sync)

    async def work() -> None:
        units = await answered(desk)
        monkeypatch.setattr(JournalWriter, "flush", counted)
        await asyncio.gather(*map(desk.settle, units))

    asyncio.run(work())
    paths = desk.run.paths
    assert flushes == [True, True]
    assert done_units(paths.round_leases(1)) == set(range(UNITS))
    assert len(list(read_journal(paths.journal(1, 0, 0), desk.run.hash))) == UNITS


def test_no_unit_is_done_before_its_answers_are_durable(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While flushes fail, every unit that ends hears of it and none is marked done."""

    def full(_: JournalWriter, *, sync: bool = True) -> None:
        raise StorageError("no space left")

    async def work() -> list[BaseException | None]:
        units = await answered(desk)
        with monkeypatch.context() as patch:
            patch.setattr(JournalWriter, "flush", full)
            return await asyncio.gather(*map(desk.settle, units), return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(work())] == [StorageError] * UNITS
    assert done_units(desk.run.paths.round_leases(1)) == set()


def test_with_a_static_schedule_each_shard_has_its_slice_and_no_more(tmp_path: Path) -> None:
    """Slices are all units, once each; what a shard leaves stays until the next round."""
    run = planned(tmp_path, ["model"] * UNITS, schedule="static", shards=3)

    async def ids(desk: Desk) -> list[int]:
        units = await answered(desk)
        for unit in units[1:]:
            await desk.settle(unit)
        return [unit.id for unit in units]

    taken = []
    for shard in range(4):
        with Desk(run, 1, shard) as desk:
            taken.append(asyncio.run(ids(desk)))
            assert not desk.all_done()
    assert taken == [[0, 3, 6], [1, 4, 7], [2, 5], []]
    assert done_units(run.paths.round_leases(1)) == {3, 4, 5, 6, 7}


def test_each_endpoint_gets_its_own_units_and_no_others(tmp_path: Path) -> None:
    """A worker takes what its server can answer; the desk says what is left for whom."""
    run = planned(tmp_path, ["judge", "model", "judge"])

    async def work(desk: Desk) -> None:
        judge, model = desk.at("judge"), desk.at("model")
        taken = [await judge.take() for _ in range(3)]
        assert taken.pop() is None
        assert {unit.endpoint for unit, _ in filter(None, taken)} == {"judge"}
        assert not desk.work_left("judge")
        assert desk.work_left("model")
        last = await model.take()
        assert last is not None
        assert [request.endpoint for request in last[1]] == ["model"]
        assert not desk.work_left()
        await model.settle(last[0])
        assert done_units(run.paths.round_leases(1)) == {last[0].id}

    with Desk(run, 1, 0) as desk:
        assert desk.endpoints() == ("judge", "model")
        asyncio.run(work(desk))


def test_a_heartbeat_counts_durable_answers_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes during its flush is in the next."""
    flush = JournalWriter.flush

    def answered_meanwhile(journal: JournalWriter, *, sync: bool = True) -> None:
        flush(journal, sync=sync)
        desk.counts.answered += 1

    desk.counts.answered = 5
    desk._pulse.stop()
    with monkeypatch.context() as patch:
        patch.setattr(JournalWriter, "flush", answered_meanwhile)
        desk._beat()
    assert worker_stats(desk.run.paths.round_leases(1))["00000"]["answered"] == 5


def test_a_desk_says_how_long_each_state_took(tmp_path: Path) -> None:
    """The last heartbeat has seconds by state, the visits of a state added up."""
    with Desk(planned(tmp_path, ["model"]), 1, 0) as desk:
        for state in ("working", "waiting", "working"):
            desk.state = state
    said = worker_stats(desk.run.paths.round_leases(1))["00000"]
    assert set(said["seconds"]) == {"starting", "working", "waiting", "ended"}
    assert all(spent >= 0 for spent in said["seconds"].values())


def test_answers_are_kept_and_leases_given_back_where_nothing_can_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes no further file: the journal's last answers go first, the leases last."""
    run = planned(tmp_path, ["model"])

    def full(_path: Path, _record: object) -> None:
        raise StorageError("No space left on device")

    async def work(desk: Desk) -> None:
        await answered(desk)
        monkeypatch.setattr("evalhpc.workflow.answer.desk.append_jsonl", full)
        raise EndpointError("the server is gone")

    with pytest.raises(StorageError, match="No space"), Desk(run, 1, 0) as desk:
        asyncio.run(work(desk))
    assert len(list(read_journal(run.paths.journal(1, 0, 0), run.hash))) == 1
    assert worker_stats(run.paths.round_leases(1))["00000"]["state"] == "ended"
