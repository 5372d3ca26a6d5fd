"""When a run goes on by itself, how often, and when it does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from evalhpc.core.rendering import batch_job
from evalhpc.errors import (
    ClusterError,
    EvalhpcError,
    FutileError,
    HarnessError,
    IncompleteError,
    UsageError,
)
from evalhpc.slurm.submission import Submission
from evalhpc.storage.atomic import append_jsonl
from evalhpc.workflow.collect.collect import Collected, collect, wants_array
from evalhpc.workflow.node import jobs as nodes
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.jobs import AGAIN, record_job, recorded_jobs
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit import control
from evalhpc.workflow.submit import launch as launching
from evalhpc.workflow.watch.status import RunStatus
from tests.slurm_fakes import FakeSlurm
from tests.unit.workflow.test_walltime import plan, run_in

if TYPE_CHECKING:
    from evalhpc.slurm.runner import Runner


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path / "run")


def submitted(run: Run, kind: str, round_: int) -> None:
    record_job(run.paths, kind, 10 + len(recorded_jobs(run.paths)), round_, "slurm")


def failure_code(run: Run) -> int:
    return int(json.loads(run.paths.failure.read_text())["exit_code"])


# --- what a collector wants submitted again


def test_planning_that_was_lost_is_wanted_again_until_the_budget_is_used_up(run: Run) -> None:
    """Twice; then the run ends with 13, and a resume begins to count anew."""
    for _ in range(AGAIN):
        submitted(run, "planning", 0)
        found = collect(run, 1)
        assert (found.state, found.round, bool(found.again)) == ("unplanned", 1, True)
    submitted(run, "planning", 0)
    with pytest.raises(FutileError, match="planning was submitted 3 times"):
        collect(run, 1)
    assert failure_code(run) == 13
    run.paths.failure.unlink()
    record_job(run.paths, "resume", 0, 0, "slurm")
    submitted(run, "planning", 0)
    assert collect(run, 1).state == "unplanned"


def test_planning_that_said_why_is_not_wanted_again(run: Run) -> None:
    """Its cause would be met again; nor where jobs may not submit, or the run was cancelled."""
    submitted(run, "planning", 0)
    note_failure(run, HarnessError("no such task"))
    with pytest.raises(IncompleteError, match="nothing was planned"):
        collect(run, 1)
    assert failure_code(run) == 8
    run.paths.failure.unlink()
    site = run.spec.site.model_copy(update={"resubmit": False})
    closed = Run(run.paths, run.spec.model_copy(update={"site": site}), run.hash)
    with pytest.raises(IncompleteError, match="nothing was planned"):
        collect(closed, 1)
    assert failure_code(run) == 9
    run.paths.cancelled.touch()
    assert collect(run, 1).state == "ended"


def test_an_array_that_no_task_of_began_is_wanted_again(run: Run) -> None:
    """The same round, twice: planning ended badly after it had planned, or all was cancelled."""
    plan(run, 1, 10)
    for _ in range(AGAIN):
        submitted(run, "shard", 1)
        found = collect(run, 1)
        assert (found.state, found.round, bool(found.again)) == ("more", 1, True)
        assert wants_array(run, 1)
    submitted(run, "shard", 1)
    assert not wants_array(run, 1)
    with pytest.raises(IncompleteError, match="round 1 answered none of its 10 requests"):
        collect(run, 1)


@pytest.mark.parametrize(("code", "once_more"), [(None, True), (6, True), (7, False)])
def test_a_round_that_was_cut_off_or_met_a_full_disk_is_asked_once_more(
    run: Run, code: int | None, once_more: bool
) -> None:
    """Not where a shard has another reason, nor a second time."""
    plan(run, 1, 10)
    for round_ in (1, 2):
        submitted(run, "shard", round_)
        run.paths.round_leases(round_).mkdir()
        if code is not None:
            said = {"fatal": "what", "cause": "", "hint": "", "exit_code": code}
            append_jsonl(run.paths.shard_failures(round_, 0, 0), said)
        if round_ == 1 and once_more:
            assert collect(run, round_) == Collected("more", 2, 10)
        else:
            with pytest.raises(EvalhpcError, match="answered none"):
                collect(run, round_)
            break


def test_an_array_without_its_collector_gets_one(run: Run) -> None:
    """Who submitted it was killed before it could submit both."""
    plan(run, 1, 10)
    plan(run, 2, 10)
    submitted(run, "shard", 2)
    found = collect(run, 1)
    assert (found.state, found.round) == ("uncollected", 2)
    submitted(run, "collect", 2)
    assert collect(run, 1).state == "ended"


def test_what_is_wanted_is_submitted_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning from the start, a round's array, or a collector after the array that has none;
    in a later life, what nobody has written down is ended before."""
    calls: list[object] = []
    for name in ("launch_planning", "launch_round", "launch_collect", "end_unrecorded"):
        monkeypatch.setattr(
            nodes, name, lambda *words, name=name, **how: calls.append((name, words[1:], how))
        )
    monkeypatch.setattr(nodes, "open_run", lambda _: run)
    found = iter([
        Collected("unplanned", 1, again="w"),
        Collected("more", 2, again="w"),
        Collected("uncollected", 1, again="w"),
    ])  # fmt: skip
    monkeypatch.setattr(nodes, "collect", lambda *_: next(found))
    submitted(run, "shard", 1)
    assert [nodes.collecting(run.paths.root, 1, life) for life in (1, 1, 2)] == [0, 0, 0]
    assert calls == [
        ("launch_planning", (), {"again": "w"}),
        ("launch_round", (2,), {"again": "w"}),
        ("end_unrecorded", (), {"besides": None}),
        ("launch_collect", (1,), {"after": [10], "again": "w"}),
    ]


@pytest.mark.parametrize(("again", "looks"), [("job 10 was asked to end", True), ("", False)])
def test_a_successor_ends_what_nobody_has_written_down(
    run: Run, monkeypatch: pytest.MonkeyPatch, again: str, looks: bool
) -> None:
    """Its predecessor may have died between the answer of sbatch and the record of the job."""
    calls: list[str] = []
    for name in ("launch_round", "end_unrecorded"):
        monkeypatch.setattr(nodes, name, lambda *_, name=name, **__: calls.append(name))
    monkeypatch.setattr(nodes, "open_run", lambda _: run)
    monkeypatch.setattr(nodes, "collect", lambda *_: Collected("more", 2))
    monkeypatch.setenv("SLURM_JOB_ID", "11")
    submitted(run, "collect", 1)
    record_job(run.paths, "collect", 11, 1, "slurm", again=again)
    assert nodes.collecting(run.paths.root, 1) == 0
    assert calls == ["end_unrecorded", "launch_round"][not looks :]


@pytest.fixture
def queue(run: Run, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Jobs of the run: 10 on its record, 11 that it lacks, 12 by hand, and 13, which asks."""
    name = batch_job(run.spec, str(run.paths.root), "shard").name
    token = Submission(cast("Runner", None), lambda _: ClusterError("x")).token

    def answer(argv: Sequence[str]) -> str:
        if any("Comment" in word for word in argv):
            said = {10: token, 11: f"r {token}", 12: run.spec.run_id, 13: token}
            return "".join(f"{job}|{comment}|\n" for job, comment in said.items())
        return "".join(f"{job}|{name}|{run.paths.root}|\n" for job in (10, 11, 12, 13))

    fake = FakeSlurm(squeue_me=answer, scancel="")
    monkeypatch.setattr(launching, "slurm_here", fake.gate)
    submitted(run, "shard", 1)
    return fake


def test_only_what_the_run_submitted_is_ended_where_nobody_wrote_it_down(
    run: Run, queue: FakeSlurm
) -> None:
    """A shard that a user submitted by hand to speed things up goes on."""
    launching.end_unrecorded(run, besides=13)
    [argv] = queue.named("scancel")
    assert [word for word in argv if word.isdigit()] == ["11"]


# --- a user who resumes meanwhile


def test_a_resume_sees_what_a_collector_submitted_as_it_ended(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs were written down after the resume had read which ones there are."""
    monkeypatch.setattr(control, "scheduler_of", lambda _: None)
    monkeypatch.setattr(control, "refuse_moved", lambda _: None)
    run.paths.leases.mkdir(exist_ok=True)

    def status(run: Run, _: object) -> RunStatus:
        submitted(run, "planning", 0)
        return RunStatus(
            run_id="r", run_dir="d", state="stalled", pass_number=0, round=0, jobs=()
        )  # fmt: skip

    monkeypatch.setattr(control, "run_status", status)
    with pytest.raises(UsageError, match="still active"):
        control.resume(run)
    assert [job.kind for job in recorded_jobs(run.paths)] == ["planning"]
