"""What a collector decides when it is started again, late, or beside another one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from evalhpc.core.acceptance import Outcome
from evalhpc.core.identity import Answer, Request, make_key
from evalhpc.errors import HarnessError, StorageError
from evalhpc.storage.atomic import write_text
from evalhpc.storage.journal import JournalWriter
from evalhpc.workflow.collect import claim
from evalhpc.workflow.collect.collect import collect
from evalhpc.workflow.collect.finish import publish
from evalhpc.workflow.node import driver
from evalhpc.workflow.node import jobs as nodes
from evalhpc.workflow.node.local_cluster import LocalCluster
from evalhpc.workflow.passes.passes import all_passes
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.jobs import record_job
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.outcomes import load_outcome
from evalhpc.workflow.record.rounds import plan_round
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.stored import stored_answers
from evalhpc.workflow.submit.control import merge_run
from evalhpc.workflow.submit.local import GRACE
from tests.unit.workflow.test_walltime import plan, run_in


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path / "run")


def test_a_round_planned_inside_a_later_array_is_that_arrays_business(run: Run) -> None:
    """A collector that is started again must not submit it beside the array that is at work."""
    for round_ in (1, 2, 3):
        plan(run, round_, 4)
    for number, round_ in enumerate((1, 2)):
        record_job(run.paths, "shard", 10 + number, round_, "slurm")
        record_job(run.paths, "collect", 20 + number, round_, "slurm")
    found = collect(run, 1)
    assert (found.state, found.round) == ("ended", 2)


def test_an_outcome_without_results_is_not_used_again(run: Run) -> None:
    """A full disk: lm-eval says so and exits 0. A resume runs it once more."""
    key = make_key(bytes(16), 0)
    plan_round(run, 1, [Request(key, "arc", "model", "POST", "/completions", b"{}")])
    with JournalWriter.create(run.paths.journal(1, 0, 0), run.hash) as journal:
        journal.append(key, Answer(200, "application/json", b"{}", 0.1, 1))
    merged = merge(run)
    root = stored_answers(run, run.open_store(), ())["arc"].root
    run.paths.pass_output(1, "arc").mkdir(parents=True)
    outcome = Outcome(
        benchmark="arc", number=1, exit_code=0, asked=1, answered=1, misses=0, dependents=0,
        store_root=root,
    )  # fmt: skip
    write_text(run.paths.outcome(1, "arc"), outcome.model_dump_json())
    outcomes = asyncio.run(all_passes(run, 1))  # takes it for done
    with pytest.raises(HarnessError, match="no results"):
        publish(run, 1, outcomes, merged)
    assert load_outcome(run, 1, "arc") is None


def test_a_merge_by_hand_waits_for_no_collector_and_does_not_race_it(run: Run) -> None:
    """Answers that it seals just then would count beside those that the last pass was given."""
    plan(run, 1, 1)
    with claim.alone(run), pytest.raises(StorageError, match="another collector"):
        merge_run(run)
    assert not run.paths.store.exists()


@pytest.mark.parametrize(("job", "noted"), [("7", True), ("8", False), ("", False)])
def test_a_collector_waits_for_another_one_wherever_it_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch, job: str, noted: bool
) -> None:
    """For one that is asked to end, or a merge; where that was in vain, the run's own says so."""
    waits: list[float] = []

    def busy(_path: Path, what: str, *, wait: float) -> None:
        waits.append(wait)
        raise StorageError(what)

    plan(run, 1, 1)
    record_job(run.paths, "collect", 7, 1, "slurm")
    monkeypatch.setattr(claim, "exclusive", busy)
    monkeypatch.setattr(nodes, "open_run", lambda _: run)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    assert nodes.collecting(run.paths.root, 1) == StorageError.exit_code
    assert run.paths.failure.exists() is noted
    with pytest.raises(StorageError):
        merge_run(run)
    assert waits == [claim.PATIENCE, 0.0]


def test_collectors_wait_for_longer_than_one_takes_to_end() -> None:
    """Its harness has a grace, and so has a job of Slurm (KillWait: 30 s)."""
    assert max(GRACE, 30.0) < claim.PATIENCE


def test_a_local_run_whose_collector_left_no_reason_says_that(run: Run) -> None:
    """It stands still: `status` names the log and how to go on. A reason of its own stays."""
    cluster = cast("LocalCluster", SimpleNamespace(run=lambda *_: [StorageError.exit_code]))
    assert driver._collect(run, cluster) == (StorageError.exit_code, False)
    assert "left no reason" in run.paths.failure.read_text()
    note_failure(run, StorageError("the disk is full"))
    assert driver._collect(run, cluster) == (StorageError.exit_code, False)
    assert "the disk is full" in run.paths.failure.read_text()
