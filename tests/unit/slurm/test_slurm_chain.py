"""A chain is in the queue as a whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalhpc.errors import ClusterError, StorageError
from evalhpc.process import Finished, ProcessFailed
from evalhpc.slurm.chain import LeftBehind, Step, submit_chain
from tests.slurm_fakes import Answer, FakeSlurm, message

OFFERS = {"scontrol_partition": "", "sinfo": ""}
STEPS = [
    Step("planning", Path("/r/planning.sbatch"), ("1",)),
    Step("shard", Path("/r/shard.sbatch"), ("1",), array="0-3", after_ok=("planning",)),
    Step("collect", Path("/r/collect.sbatch"), ("1",), after_any=("shard",), comment="c"),
]


class Book:
    """What was recorded, and what is raised when the n-th job is recorded."""

    def __init__(self, error: BaseException | None = None, at: int = 0) -> None:
        self.entries: list[tuple[str, int]] = []
        self._error, self._at = error, at

    def __call__(self, step: Step, job_id: int) -> None:
        self.entries.append((step.kind, job_id))
        if self._error is not None and len(self.entries) == self._at:
            raise self._error


def test_steps_are_tried_then_submitted_in_order_each_after_the_ones_it_names() -> None:
    """Three trials, three submissions, the ids as they come."""
    fake, book = FakeSlurm(sbatch_test="", sbatch=["11\n", "12\n", "13\n"]), Book()
    assert submit_chain(fake.gate(), STEPS, book) == [11, 12, 13]
    assert [fake.key(call) for call in fake.calls] == ["sbatch_test"] * 3 + ["sbatch"] * 3
    assert book.entries == [("planning", 11), ("shard", 12), ("collect", 13)]
    planning, shard, collect = fake.named("sbatch")
    assert not any(word.startswith("--dependency") for word in planning)
    assert {"--dependency=afterok:11", "--kill-on-invalid-dep=yes", "--array=0-3"} <= set(shard)
    assert "--dependency=afterany:12" in collect
    assert "--kill-on-invalid-dep=yes" not in collect


def test_nothing_is_submitted_if_slurm_would_refuse_any_of_it() -> None:
    """The third script's mistake is found before the first is in the queue."""
    fake = FakeSlurm(sbatch_test=["", "", message("bad-account")], sbatch="11\n", **OFFERS)
    with pytest.raises(ClusterError, match=r"collect\.sbatch"):
        submit_chain(fake.gate(), STEPS, Book())
    assert fake.named("sbatch") == []


def test_a_refusal_takes_the_earlier_jobs_with_it_newest_first() -> None:
    """The error names the step, Slurm's reason and the cancelled ids."""
    fake = FakeSlurm(
        sbatch_test="", sbatch=["11\n", "12\n", message("submit-limit")], scancel="", **OFFERS
    )
    with pytest.raises(
        ClusterError, match=r"(?s)the collect job was not submitted.*12, 11"
    ) as caught:
        submit_chain(fake.gate(), STEPS, Book())
    assert fake.named("scancel") == [["scancel", "12"], ["scancel", "11"]]
    assert "maxsubmit" in caught.value.hint


def test_a_record_that_cannot_be_written_takes_its_own_job_with_it() -> None:
    """A job that nobody wrote down could never be cancelled later."""
    fake = FakeSlurm(sbatch_test="", sbatch=["11\n", "12\n"], scancel="")
    book = Book(StorageError("disk full", hint="df -h"), at=2)
    with pytest.raises(StorageError, match=r"(?s)shard job.*disk full.*12, 11") as caught:
        submit_chain(fake.gate(), STEPS, book)
    assert caught.value.hint == "df -h"
    assert fake.named("scancel") == [["scancel", "12"], ["scancel", "11"]]


@pytest.mark.parametrize(
    "error", [OSError("no space"), ProcessFailed(Finished(("lfs",), 1, "", "quota"))]
)
def test_any_other_error_undoes_the_chain_too(error: Exception) -> None:
    """It is reported as Slurm's chapter, with its own words."""
    fake = FakeSlurm(sbatch_test="", sbatch="11\n", scancel="")
    with pytest.raises(ClusterError, match=r"(no space|quota)(.|\n)*11"):
        submit_chain(fake.gate(), STEPS, Book(error, at=1))
    assert fake.named("scancel") == [["scancel", "11"]]


def test_ctrl_c_undoes_the_chain() -> None:
    """And stays a keyboard interrupt, which names the ids."""
    fake = FakeSlurm(sbatch_test="", sbatch=["11\n", "12\n"], scancel="")
    with pytest.raises(KeyboardInterrupt, match="12, 11"):
        submit_chain(fake.gate(), STEPS, Book(KeyboardInterrupt(), at=2))
    assert fake.named("scancel") == [["scancel", "12"], ["scancel", "11"]]


@pytest.mark.parametrize(
    "scancel", [message("scancel-no-controller"), KeyboardInterrupt()], ids=["away", "again"]
)
def test_ctrl_c_that_cannot_undo_the_chain_says_what_is_left(scancel: Answer) -> None:
    """It is no keyboard interrupt any more: the run directory must stay, so that jobs are found."""
    fake = FakeSlurm(sbatch_test="", sbatch=["11\n", "12\n"], scancel=scancel)
    with pytest.raises(LeftBehind, match="scancel 12 11"):
        submit_chain(fake.gate(), STEPS, Book(KeyboardInterrupt(), at=2))


def test_ctrl_c_twice_while_sbatch_runs_says_that_a_job_may_be_left() -> None:
    """Nobody has asked whether it was taken."""
    fake = FakeSlurm(
        sbatch_test="",
        sbatch=["11\n", KeyboardInterrupt()],
        squeue_me=KeyboardInterrupt(),
        scancel="",
    )
    with pytest.raises(LeftBehind, match="nobody can say whether Slurm took the job"):
        submit_chain(fake.gate(), STEPS, Book())


def test_jobs_that_could_not_be_cancelled_are_named_with_the_command() -> None:
    """The controller went away in the middle: the user has to finish the work."""
    fake = FakeSlurm(
        sbatch_test="", sbatch=["11\n", message("submit-limit")],
        scancel=message("scancel-no-controller"), **OFFERS,
    )  # fmt: skip
    with pytest.raises(ClusterError, match="scancel 11"):
        submit_chain(fake.gate(), STEPS, Book())


def test_a_chain_that_waits_for_a_later_step_is_a_mistake_of_ours() -> None:
    """Found before Slurm is asked anything."""
    fake = FakeSlurm()
    with pytest.raises(ValueError, match="shard"):
        submit_chain(fake.gate(), [STEPS[1]], Book())
    assert fake.calls == []


def test_of_an_array_that_serves_others_the_first_task_is_waited_for() -> None:
    """`after:ID` alone would wait until every task of it has begun."""
    steps = [
        Step("planning", Path("/r/planning.sbatch")),
        Step("deploy", Path("/r/deploy.sbatch"), after_ok=("planning",)),
        Step("shard", Path("/r/shard.sbatch"), after_ok=("planning",), after_begin=("deploy",)),
    ]
    fake = FakeSlurm(sbatch_test="", sbatch=["11\n", "12\n", "13\n"])
    submit_chain(fake.gate(), steps, Book())
    assert "--dependency=afterok:11,after:12_0" in fake.named("sbatch")[-1]


def test_parts_of_one_kind_are_judged_once_and_waited_for_together() -> None:
    """Several arrays of shards: one trial, a submission each, a collector after all of them."""
    parts = [
        Step("shard", Path("/r/shard.sbatch"), ("1",), array="0-2"),
        Step("shard", Path("/r/shard.sbatch"), ("1", "3"), array="0-2", part=1, first=3),
        Step("collect", Path("/r/collect.sbatch"), ("1",), after_any=("shard", "shard+1")),
    ]
    fake, book = FakeSlurm(sbatch_test="", sbatch=["11\n", "12\n", "13\n"]), Book()
    assert submit_chain(fake.gate(), parts, book) == [11, 12, 13]
    assert len(fake.named("sbatch_test")) == 2
    _, second, collect = fake.named("sbatch")
    assert second[-2:] == ["1", "3"]
    assert "--dependency=afterany:11:12" in collect


def test_a_fitted_walltime_is_tried_and_submitted() -> None:
    """It stands on the command line, where it counts before the script's own."""
    step = Step("shard", Path("/r/shard.sbatch"), walltime="0:10:00", extra=("--exclude=n1",))
    fake = FakeSlurm(sbatch_test="", sbatch="11\n")
    submit_chain(fake.gate(), [step], Book())
    for [argv] in (fake.named("sbatch_test"), fake.named("sbatch")):
        assert argv[-3:] == ["--exclude=n1", "--time=0:10:00", "/r/shard.sbatch"]


@pytest.mark.parametrize("scancel", [message("scancel-no-controller"), ""])
def test_a_chain_that_cannot_be_undone_says_so_by_its_class(scancel: Finished | str) -> None:
    """Whoever holds the run's directory must keep it then."""
    fake = FakeSlurm(
        sbatch_test="", sbatch=["11\n", message("submit-limit")], scancel=scancel, **OFFERS
    )
    with pytest.raises(ClusterError) as caught:
        submit_chain(fake.gate(), STEPS, Book())
    assert isinstance(caught.value, LeftBehind) == (scancel != "")


def test_a_job_that_may_or_may_not_be_there_counts_as_left_behind() -> None:
    """sbatch timed out, and the controller does not say whether it took the job."""
    fake = FakeSlurm(
        sbatch_test="", sbatch=message("submit-frozen-controller"),
        squeue_me=message("squeue-no-controller"),
    )  # fmt: skip
    with pytest.raises(LeftBehind, match="nobody can say whether Slurm took the job"):
        submit_chain(fake.gate(), STEPS, Book())
