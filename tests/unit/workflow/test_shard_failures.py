"""What status says of shards that failed is what they left behind, or that they left nothing."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.errors import EndpointError
from evalhpc.paths import RunPaths, attempt_of
from evalhpc.storage.leases import LeaseBook
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.faults.excluded_nodes import node_failures
from evalhpc.workflow.faults.shard_failures import shard_failures, silent_shards, unended
from tests.unit.workflow.test_desk import planned


def test_a_shard_that_fails_leaves_its_cause_and_its_units(tmp_path: Path) -> None:
    """Node, cause and the end of the log are kept, and another shard has its units at once."""
    run = planned(tmp_path, ["model"] * 3)
    failing = pytest.raises(EndpointError)
    with failing, Desk(run, 1, 4) as desk:
        while desk._book.next_unit([0, 1, 2]) is not None:
            pass
        raise EndpointError("the server ended\n  | CUDA error", cause="a cause", hint="less log")
    (failed,) = shard_failures(run)
    assert (failed.round, failed.shard, failed.attempt) == (1, 4, 0)
    assert failed.what == "the server ended\n  | CUDA error"
    assert (failed.cause, failed.hint) == ("a cause", "less log")
    assert failed.node == os.uname().nodename
    assert abs(failed.at - time.time()) < 60
    assert Desk(run, 1, 5).work_left()


def test_a_shard_that_went_silent_is_named(tmp_path: Path) -> None:
    """Its job has ended and its last heartbeat does not say so; how old that is does not matter."""
    run = planned(tmp_path, ["model"])
    leases = run.paths.round_leases(1)
    for name, state in (("00001", "working"), ("00002", "ended"), ("00003", "working")):
        LeaseBook(leases, name, 60).beat({"state": state, "node": f"n{name[-1]}"})
    LeaseBook(leases, "00004", 60)  # found nothing to do
    assert silent_shards(run, 1, lambda _: False) == ()
    for file in (leases / "workers").iterdir():
        os.utime(file, (1, 1))  # another machine's clock
    (failed,) = silent_shards(run, 1, lambda shard: shard != 3)
    assert (failed.shard, failed.node) == (1, "n1")
    assert "still working" in failed.what


def test_only_shards_are_counted(tmp_path: Path) -> None:
    """A worker, or a file beside the journals, with another kind of name is no shard's."""
    run = planned(tmp_path, ["model"])
    LeaseBook(run.paths.round_leases(1), "someone", 60).beat({"state": "working", "node": "n1"})
    (run.paths.journals / "0001-notes.failures.jsonl").write_text('{"fatal": "x"}\n')
    assert list(unended(run, 1)) == []
    assert list(node_failures(run)) == []
    assert shard_failures(run) == ()


@given(round_=st.integers(0, 99999), shard=st.integers(0, 999999), attempt=st.integers(0, 9999))
def test_a_name_says_whose_it_is(round_: int, shard: int, attempt: int) -> None:
    """Round, shard and attempt come back from the names that are made of them, of any length."""
    paths = RunPaths(Path("/r"))
    for path in (
        paths.journal(round_, shard, attempt),
        paths.shard_failures(round_, shard, attempt),
    ):
        assert attempt_of(path) == (round_, shard, attempt)
    assert paths.shard_failures(round_, shard, attempt).match(paths.failures_pattern(round_))
