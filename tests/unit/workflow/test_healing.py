"""When a run goes on by itself, how often, and when it does not."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import tenacity.nap

from evalhpc.core.acceptance import Outcome
from evalhpc.core.rendering import batch_job
from evalhpc.errors import (
    ClusterError,
    EvalhpcError,
    FutileError,
    HarnessError,
    IncompleteError,
    StorageError,
    UsageError,
)
from evalhpc.slurm.jobs import JobRecord
from evalhpc.slurm.submission import Submission
from evalhpc.storage.atomic import append_jsonl, storage_error
from evalhpc.storage.leases import LeaseBook
from evalhpc.workflow.collect import claim
from evalhpc.workflow.collect.claim import alone
from evalhpc.workflow.collect.collect import Collected, collect, wants_array
from evalhpc.workflow.collect.refusals import refuse_failed
from evalhpc.workflow.faults import passing
from evalhpc.workflow.faults.passing import may_pass, patiently
from evalhpc.workflow.node import driver, succession
from evalhpc.workflow.node import jobs as nodes
from evalhpc.workflow.node.local_cluster import LocalCluster
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.jobs import AGAIN, record_job, recorded_jobs
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.herald import is_over
from evalhpc.workflow.submit import control
from evalhpc.workflow.submit import launch as launching
from evalhpc.workflow.watch.status import RunStatus
from tests.slurm_fakes import FakeSlurm
from tests.unit.workflow.test_walltime import plan, run_in

if TYPE_CHECKING:
    from evalhpc.slurm.runner import Runner

#: Scripts that do nothing, and say so.
ENDS_WELL = cast("LocalCluster", SimpleNamespace(run=lambda *_: [0]))


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


# --- a collector that was asked to end


@pytest.fixture
def asked_to_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Jobs submitted by collector 7 of round 1 that was asked to end, in a job with restarts."""

    def hand_over(restarts: int = 0) -> list[str]:
        found: list[str] = []

        class Known:
            def jobs(self, _: list[int]) -> dict[int, list[JobRecord]]:
                return {7: [JobRecord(7, restarts=restarts)]}

        def launch(run: Run, round_: int, after: list[int], again: str) -> None:
            record_job(run.paths, "collect", 8, round_, "slurm", again=again)
            found.append(f"round {round_} after {after}")

        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setattr(succession, "open_run", lambda _: run)
        monkeypatch.setattr(succession, "slurm_here", Known)
        monkeypatch.setattr(succession, "launch_collect", launch)
        succession.hand_over(run.paths.root, 1)
        return found

    return hand_over


def test_a_collector_that_is_asked_to_end_leaves_a_successor(
    run: Run, asked_to_end: Callable[..., list[str]]
) -> None:
    """One, which waits for its end; none where Slurm starts it again, or it had decided."""
    submitted(run, "collect", 1)
    assert asked_to_end(restarts=1) == []
    assert asked_to_end() == ["round 1 after [7]"]
    assert asked_to_end() == []
    plan(run, 2, 10)
    submitted(run, "collect", 2)
    assert asked_to_end() == []


def test_a_cancelled_run_gets_no_successor(
    run: Run, asked_to_end: Callable[..., list[str]]
) -> None:
    """`evalhpc cancel` marks the run before it ends the jobs."""
    submitted(run, "collect", 1)
    run.paths.cancelled.touch()
    assert asked_to_end() == []


def test_successors_end_with_the_budget(run: Run, asked_to_end: Callable[..., list[str]]) -> None:
    """And the run says so: 13."""
    for _ in range(1 + AGAIN):
        submitted(run, "collect", 1)
    assert asked_to_end() == []
    assert failure_code(run) == 13


def test_a_killed_collectors_next_life_does_not_wait_for_its_lease(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same start of the same job; after a requeue it does."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    dead = LeaseBook(run.paths.collector_leases, claim._worker(), 60)
    assert dead.next_unit([0]) == 0
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    with alone(run) as still_sole:
        still_sole()
    assert not dead.still_mine(0)
    first = claim._worker()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert claim._worker() != first


def unseen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there, and that this node believes absent, as NFS does for up to a minute."""
    path.touch()
    exists, lexists = Path.exists, os.path.lexists
    monkeypatch.setattr(Path, "exists", lambda other: other != path and exists(other))
    monkeypatch.setattr(os.path, "lexists", lambda other: Path(other) != path and lexists(other))


@pytest.mark.parametrize("name", ["certificate", "cancelled", "failure"])
def test_a_run_is_over_also_where_another_node_has_just_said_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`evalhpc cancel` marks the run, then asks its collector to end, which sees the mark."""
    assert not is_over(run)
    unseen(getattr(run.paths, name), monkeypatch)
    assert is_over(run)


def test_nothing_is_submitted_for_a_run_that_was_just_cancelled(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where this node has not heard of it: `cancel` has listed the jobs by then."""
    monkeypatch.setattr(launching, "slurm_here", lambda: pytest.fail("it submits"))
    unseen(run.paths.cancelled, monkeypatch)
    with pytest.raises(UsageError, match="the run was cancelled"):
        launching.launch_collect(run, 1)


def test_a_cancelled_run_whose_successor_was_refused_has_not_failed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark came while it was being submitted."""

    def refuse(*_: object) -> None:
        unseen(run.paths.cancelled, monkeypatch)
        raise UsageError("the run was cancelled")

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(succession, "open_run", lambda _: run)
    monkeypatch.setattr(succession, "_hand_over", refuse)
    succession.hand_over(run.paths.root, 1)
    assert not run.paths.failure.exists()


def test_a_local_driver_starts_no_array_for_a_cancelled_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one for a run that its collector has completed."""
    plan(run, 1, 1)
    assert driver._collect(run, ENDS_WELL) == (0, True)
    unseen(run.paths.cancelled, monkeypatch)
    assert driver._collect(run, ENDS_WELL) == (0, False)


# --- a file system that is full or away


def raised(number: int) -> StorageError:
    """As storage raises it."""
    error = OSError(number, "what")
    found = storage_error(Path("x"), error)
    found.__cause__ = error
    return found


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (raised(errno.ENOSPC), True),
        (raised(errno.ESTALE), True),
        (OSError(errno.EDQUOT, "what"), True),
        (HarnessError("exit code 1\n  | OSError: [Errno 28] No space left on device"), True),
        (HarnessError("exit code 1\n  | no such task"), False),
        (HarnessError("exit code -9", transient=True), True),
        (raised(errno.EACCES), False),
        (StorageError("another collector is at work"), False),
        (ValueError("x"), False),
    ],
)
def test_only_a_file_system_that_is_full_or_away_is_waited_for(
    error: Exception, passes: bool
) -> None:
    """Whatever is met again at once is not."""
    assert may_pass(error) is passes


def test_work_is_tried_again_until_there_is_room_or_patience_is_over(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was tried for in vain is told as StorageError."""
    monkeypatch.setattr(passing, "FIRST", 0.01)
    settings = run.spec.run.model_copy(update={"storage_wait": 0.02})
    run = Run(run.paths, run.spec.model_copy(update={"run": settings}), run.hash)
    tries: list[int] = []

    def work() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "full")
        return len(tries)

    assert patiently(run, work) == 3
    tries.clear()

    def in_vain() -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "full", "a/b")

    with pytest.raises(StorageError, match="cannot use a/b: No space left"):
        patiently(run, in_vain)
    assert len(tries) == 3


def test_a_harness_that_was_killed_is_run_three_times(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lack of memory is met again; whoever has killed it once may not be there again."""
    monkeypatch.setattr(passing, "FIRST", 0.01)
    outcome = Outcome(
        benchmark="b", number=0, exit_code=-9, asked=1, answered=0, misses=1, dependents=0
    )
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        refuse_failed([outcome])

    with pytest.raises(HarnessError, match="signal 9"):
        patiently(run, work)
    assert len(tries) == 3


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the pauses, none of which is made."""
    found: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=found.append))
    return found


def test_a_full_disk_is_given_up_also_after_a_harness_was_killed(
    run: Run, naps: list[float]
) -> None:
    """A harness that is run again whatever was waited is no leave to wait without end."""
    limit = run.spec.run.storage_wait
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise HarnessError("exit code -9", transient=True)
        if sum(naps) > 2 * limit:
            pytest.fail("it waits without end")
        raise OSError(errno.ENOSPC, "full", "a/b")

    with pytest.raises(StorageError, match="No space left"):
        patiently(run, work)
    assert sum(naps) >= limit


def test_a_harness_that_tells_of_a_full_disk_is_run_few_times(run: Run, naps: list[float]) -> None:
    """It may mean a disk that stays full ($HOME, /tmp), or only warn; and a run may take hours."""
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise HarnessError("exit code 1\n  | OSError: [Errno 28] No space left on device")

    with pytest.raises(HarnessError, match="exit code 1"):
        patiently(run, work)
    assert len(tries) == 5
    limit = run.spec.run.storage_wait
    assert naps[0] == passing.FIRST
    assert limit <= sum(naps) <= limit + passing.FIRST


def test_a_shard_ends_when_the_file_system_is_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, Slurm could not open the log of the collector that follows; its code stays 6."""
    monkeypatch.setattr(passing, "FIRST", 0.01)
    spec = run.spec.model_copy(
        update={"site": run.spec.site.model_copy(update={"scheduler": "slurm"})}
    )
    monkeypatch.setattr(nodes, "open_run", lambda _: Run(run.paths, spec, run.hash))
    tries: list[int] = []

    def fail(*_: object) -> None:
        raise raised(errno.EROFS)

    def write(*_: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise raised(errno.EROFS)

    monkeypatch.setattr(nodes, "run_shard", fail)
    monkeypatch.setattr(passing, "write_bytes", write)
    assert nodes.answering(run.paths.root, 1, 0) == 6
    assert len(tries) == 3


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
