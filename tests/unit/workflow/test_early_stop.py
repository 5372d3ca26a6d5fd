"""What shards that failed decide for those that follow."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from evalhpc.errors import EndpointError, EvalhpcError, FutileError, StorageError
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.faults import early_stop
from evalhpc.workflow.faults.early_stop import (
    calling_off,
    fault_of_round,
    refuse_endless,
    refuse_futile,
)
from evalhpc.workflow.faults.excluded_nodes import (
    node_failures,
)
from evalhpc.workflow.faults.shard_failures import shard_failures
from evalhpc.workflow.record.jobs import record_job
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import Interrupted
from evalhpc.workflow.shard.sliced import SliceDesk
from tests.unit.workflow.test_desk import ANSWER, planned


def fail(run: Run, shard: int, node: str, error: EvalhpcError, *, answers: int = 0) -> None:
    """A shard that ends with an error, after so many answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURMD_NODENAME", node)
        failing = pytest.raises(EvalhpcError)
        with failing, Desk(run, 1, shard) as desk:
            for _ in range(answers):
                _answer(desk)
            raise error


def _answer(desk: Desk) -> None:
    async def one() -> None:
        taken = await desk.take()
        assert taken is not None
        desk.record(taken[1][0].key, ANSWER)
        await desk.settle(taken[0])
        desk.counts.answered += 1

    asyncio.run(one())


def died(port: int) -> EndpointError:
    return EndpointError(f"the server at 127.0.0.1:{port} ended\n  | log {port}", cause="see it")


def loading(root: Path) -> Run:
    """A run with a round of eight units, and shards for them, which start the model."""
    run = planned(root, ["model"] * 8, shards=8)
    model = run.spec.model.model_copy(update={"url": None})
    return Run(run.paths, run.spec.model_copy(update={"model": model}), run.hash)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Such a run."""
    return loading(tmp_path)


def test_the_fourth_of_four_alike_does_not_begin(run: Run) -> None:
    """Three on two nodes are enough, two are not; the cause is in the error."""
    for shard in range(2):
        fail(run, shard, f"n{shard}", died(4000 + shard))
        refuse_futile(run, 1, 7)
    fail(run, 2, "n1", died(4002))
    with pytest.raises(FutileError, match="3 shards failed alike on n0, n1") as futile:
        refuse_futile(run, 1, 7)
    assert futile.value.cause == "see it"
    refuse_futile(run, 1, 2)  # by hand, to see it fail once more


def test_an_answer_or_a_ready_shard_speaks_against_it(run: Run) -> None:
    """As long as one shard has its model up, or has ever answered, others may do better."""
    for shard in range(3):
        fail(run, shard, f"n{shard}", died(4000))
    assert fault_of_round(run, 1) is not None
    with Desk(run, 1, 7) as desk:
        assert fault_of_round(run, 1) is not None  # it loads
        desk.state = "working"
        desk._beat()
        assert fault_of_round(run, 1) is None
        _answer(desk)
    with Desk(run, 1, 7):  # started again: its journal is what tells of its first life
        assert fault_of_round(run, 1) is None


def test_a_resumed_run_begins_anew(run: Run) -> None:
    """What failed before the user put it right counts no more, for shards as for nodes."""
    for shard in range(3):
        fail(run, shard, "n1", died(4000))
    assert fault_of_round(run, 1) is not None
    assert len(list(node_failures(run))) == 3
    record_job(run.paths, "resume", 0, 1, "slurm")
    assert fault_of_round(run, 1) is None
    assert list(node_failures(run)) == []


def test_a_bug_ends_a_shard_with_a_record(run: Run) -> None:
    """An exception that nobody foresaw counts like any other end; a signal does not."""
    for shard, error in enumerate((ZeroDivisionError("x"), Interrupted("SIGTERM"))):
        failing = pytest.raises(type(error))
        with failing, Desk(run, 1, shard):
            raise error
    (failed,) = shard_failures(run)
    assert (failed.shard, failed.cause) == (0, "a bug of evalhpc")
    assert "ZeroDivisionError" in failed.what


def test_a_task_that_slurm_starts_again_and_again_is_ended(run: Run) -> None:
    """Five starts in a row without an answer, or more than twenty at all; by hand without end."""
    for _ in range(5):
        with Desk(run, 1, 0):
            refuse_endless(run, 1, 0, 4)
    refuse_endless(run, 1, 0, 0)
    with pytest.raises(FutileError, match="cut off before its first answer"):
        refuse_endless(run, 1, 0, 5)
    with Desk(run, 1, 0) as desk:
        _answer(desk)
    refuse_endless(run, 1, 0, 6)
    with pytest.raises(FutileError, match="21 times anew"):
        refuse_endless(run, 1, 0, 21)


@pytest.fixture
def sliced(run: Run) -> Run:
    """The same run before its first plan: its shards run the harness on slices."""
    settings = run.spec.run.model_copy(update={"shard_by": "samples"})
    shutil.rmtree(run.paths.plan)
    return Run(run.paths, run.spec.model_copy(update={"run": settings}), run.hash)


def fail_slice(run: Run, shard: int, node: str, error: EvalhpcError) -> None:
    """A shard of slices that ends with an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURMD_NODENAME", node)
        failing = pytest.raises(EvalhpcError)
        with failing, SliceDesk(run, shard):
            raise error


def test_shards_of_slices_are_called_off_once(
    sliced: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Round 1, whose journals they write, has no plan and no folder yet; the first one cancels
    what waits, and the next has nothing left to do."""
    cancelled: list[list[int]] = []

    class Cluster:
        """Notes what is cancelled."""

        def __init__(self, env: object) -> None:
            """As the real one."""

        def cancel(self, ids: list[int], *, only_pending: bool) -> None:
            """Only what waits."""
            assert only_pending
            cancelled.append(ids)

    monkeypatch.setattr(early_stop, "Slurm", Cluster)
    record_job(sliced.paths, "shard", 7, 1, "slurm", tasks=8)
    for shard in range(3):
        fail_slice(sliced, shard, f"n{shard}", died(shard))
    for _ in range(2):
        with pytest.raises(EndpointError), calling_off(sliced, 1):
            raise died(3)
    assert cancelled == [[7]]
    assert not [record for record in caplog.records if "not cancelled" in record.message]


def test_nodes_that_failed_slices_are_seen_before_the_first_plan(sliced: Run) -> None:
    """The collector chooses nodes first, and plans what the slices asked after that."""
    for shard in range(2):
        fail_slice(sliced, shard, "n1", died(shard))
    assert [node for node, _ in node_failures(sliced)] == ["n1", "n1"]


def test_what_may_pass_stops_nobody(run: Run) -> None:
    """A preempted deployment job is back when the next shard begins, and so may be the file
    server; a model of the shard's own that did not load in time is as slow the next time. The
    nodes are spared either way: they failed alike."""
    deploy = run.spec.site.deploy.model_copy(update={"topology": "job"})
    site = run.spec.site.model_copy(update={"deploy": deploy})
    shared = Run(run.paths, run.spec.model_copy(update={"site": site}), run.hash)
    for shard in range(4):
        fail(run, shard, f"n{shard % 2}", EndpointError("deployment job 0 was started anew",
                                                        transient=True))  # fmt: skip
    refuse_futile(shared, 1, 7)
    with pytest.raises(FutileError):
        refuse_futile(run, 1, 7)
    record_job(run.paths, "resume", 0, 1, "slurm")
    for shard in range(4):
        fail(run, shard, f"n{shard % 2}", StorageError("stale", transient=True))
    refuse_futile(run, 1, 7)
    assert list(node_failures(run)) == []
