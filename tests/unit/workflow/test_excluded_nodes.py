"""Which nodes the next round does without, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalhpc.errors import ClusterError, StorageError
from evalhpc.slurm.gate import Slurm
from evalhpc.storage.leases import LeaseBook
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.faults import excluded_nodes
from evalhpc.workflow.faults.excluded_nodes import (
    carried_over,
    choose_excluded,
    excluding,
    node_failures,
    one_bad_node,
)
from evalhpc.workflow.record.jobs import record_job
from evalhpc.workflow.record.run import Run
from tests.unit.workflow.test_desk import planned
from tests.unit.workflow.test_early_stop import died, fail, loading


@pytest.fixture(autouse=True)
def willing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that takes the array without whatever nodes."""
    monkeypatch.setattr(Slurm, "test_only", lambda *_args, **_options: None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a round of eight units, and shards for them, which start the model."""
    return loading(tmp_path)


def test_failures_count_for_their_node(run: Run) -> None:
    """A death before any answer, a server that died at work, a shard that was silenced, and one
    whose next life found its last heartbeat; not what a shard gave up after answers."""
    fail(run, 0, "n1", StorageError("no space"))
    fail(run, 1, "n2", died(4001), answers=1)
    fail(run, 2, "n3", StorageError("no space"), answers=1)
    leases = run.paths.round_leases(1)
    LeaseBook(leases, "00003", 60).beat({"state": "working", "node": "n4", "resumes": 0})
    LeaseBook(leases, "00004", 60).beat({"state": "starting", "node": "n5", "resumes": 0})
    with Desk(run, 1, 4):
        pass
    assert sorted(node for node, _ in node_failures(run)) == ["n1", "n2", "n4", "n5"]


def test_a_server_elsewhere_is_not_the_asking_nodes(tmp_path: Path) -> None:
    """Who asks an endpoint in vain may do so on the best of nodes."""
    run = planned(tmp_path, ["model"] * 8, shards=8)
    for shard in range(2):
        fail(run, shard, "n1", died(1))
    assert list(node_failures(run)) == []
    fail(run, 2, "n1", StorageError("no space"))
    assert [node for node, _ in node_failures(run)] == ["n1"]


def test_a_bad_node_is_excluded_beside_those_of_the_site(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice is enough; it is written down, joins the site's own list, and goes with a resume."""
    slurm = run.spec.site.slurm.model_copy(
        update={"extra": ("--exclude=a[1-2]", "--mail-type=END")}
    )
    site = run.spec.site.model_copy(update={"slurm": slurm})
    run = Run(run.paths, run.spec.model_copy(update={"site": site}), run.hash)
    monkeypatch.setattr(excluded_nodes, "_nodes_of", lambda _: frozenset({"n1", "n2"}))
    fail(run, 0, "n1", died(1))
    choose_excluded(run)
    assert excluding(run) == ()
    fail(run, 1, "n1", died(2))
    choose_excluded(run)
    assert excluding(run) == ("--exclude=a[1-2],n1",)
    assert one_bad_node(run)
    record_job(run.paths, "resume", 0, 1, "slurm")
    assert excluding(run) == ()


def test_never_all_nodes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too few would be left, or nobody says how many there are, it is not the node."""
    fail(run, 0, "n1", died(1))
    fail(run, 1, "n1", StorageError("no space"))
    for known in (frozenset({"n1"}), frozenset()):
        monkeypatch.setattr(excluded_nodes, "_nodes_of", lambda _, known=known: known)
        choose_excluded(run)
        assert excluding(run) == ()


def test_a_silenced_planner_says_nothing_of_its_node(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pass 0 in the array beats without a node: that is no second bad node."""
    monkeypatch.setattr(excluded_nodes, "_nodes_of", lambda _: frozenset({"n1", "n2"}))
    LeaseBook(run.paths.round_leases(0), "00005", 60).beat({"state": "planning"})
    for shard in range(2):
        fail(run, shard, "n1", died(shard))
    choose_excluded(run)
    assert one_bad_node(run)


def test_a_node_that_nothing_is_left_without_stays(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of nodes, a constraint or a reservation leaves less than the partition has; Slurm
    is asked with the very option, and with the round that the script needs."""
    asked: list[tuple[object, ...]] = []

    def refused(_: Slurm, script: Path, *args: str, extra: tuple[str, ...]) -> None:
        asked.append((script.name, *args, *extra))
        raise ClusterError("Requested node configuration is not available")

    monkeypatch.setattr(excluded_nodes, "_nodes_of", lambda _: frozenset({"n1", "n2"}))
    monkeypatch.setattr(Slurm, "test_only", refused)
    for shard in range(2):
        fail(run, shard, "n1", died(shard))
    choose_excluded(run)
    assert asked == [("shard.sbatch", "1", "--exclude=n1")]
    assert excluding(run) == ()
    assert not one_bad_node(run)


@pytest.mark.parametrize(
    "narrowed", [{"extra": ("--nodelist=n1",)}, {"constraint": "a100"}, {"reservation": "maint"}]
)
def test_who_may_not_ask_slurm_leaves_narrowed_sites_alone(
    narrowed: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where jobs may not submit, nobody says whether a node could be spared."""
    monkeypatch.setattr(excluded_nodes, "_nodes_of", lambda _: frozenset({"n1", "n2"}))
    slurm = run.spec.site.slurm.model_copy(update=narrowed)
    site = run.spec.site.model_copy(update={"resubmit": False, "slurm": slurm})
    run = Run(run.paths, run.spec.model_copy(update={"site": site}), run.hash)
    for shard in range(2):
        fail(run, shard, "n1", died(shard))
    choose_excluded(run)
    assert excluding(run) == ()


def resume(run: Run) -> None:
    """What `evalhpc resume` does first."""
    with carried_over(run):
        run.paths.failure.unlink(missing_ok=True)
        record_job(run.paths, "resume", 0, 1, "slurm")


def test_where_users_start_each_round_nodes_stay_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resubmit: false`: they are excluded over any number of rounds, beside those that fail
    later, until the run fails; elsewhere a resume begins with all nodes."""
    known = frozenset({"n1", "n2", "n3"})
    monkeypatch.setattr(excluded_nodes, "_nodes_of", lambda _: known)
    for shard in range(2):
        fail(run, shard, "n1", died(shard))
    site = run.spec.site.model_copy(update={"resubmit": False})
    manual = Run(run.paths, run.spec.model_copy(update={"site": site}), run.hash)
    choose_excluded(manual)
    resume(manual)
    assert excluding(manual) == ("--exclude=n1",)
    for shard in range(2):
        fail(run, shard, "n2", died(shard))
    for _ in range(2):  # a collector that is started again finds the same
        choose_excluded(manual)
        assert excluding(manual) == ("--exclude=n1,n2",)
    resume(manual)
    choose_excluded(manual)
    assert excluding(manual) == ("--exclude=n1,n2",)
    run.paths.failure.write_text("{}")
    resume(manual)
    assert excluding(manual) == ()


def test_a_resume_of_a_run_that_submits_by_itself_begins_with_all_nodes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user came because something was wrong."""
    monkeypatch.setattr(excluded_nodes, "_nodes_of", lambda _: frozenset({"n1", "n2"}))
    for shard in range(2):
        fail(run, shard, "n1", died(shard))
    choose_excluded(run)
    assert excluding(run)
    resume(run)
    assert excluding(run) == ()
