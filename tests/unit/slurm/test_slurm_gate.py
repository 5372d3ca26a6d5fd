"""The verbs: one batched question, patience with the controller, clear refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from evalhpc.errors import ClusterError
from evalhpc.process import Finished
from evalhpc.slurm.commands import squeue
from evalhpc.slurm.gate import COMMANDS, Slurm
from evalhpc.slurm.jobs import Dependency
from tests.slurm_fakes import FakeSlurm, captured, comment_of, message

SCRIPT = Path("/run/scripts/shard.sbatch")
OFFERS = {
    "scontrol_partition": captured("22.05/partitions.txt"),
    "scontrol_config": captured("22.05/config.txt"),
    "sinfo": captured("22.05/sinfo.txt"),
}
ESTIMATE = Finished(
    (), 0, "", "sbatch: Job 5 to start at 1795254838 using 1 processors on nodes n1 in partition b"
)
TIMEOUT, REFUSED_CONNECTION = message("submit-frozen-controller"), message("submit-no-controller")


def test_commands_that_are_missing_are_named(tmp_path: Path) -> None:
    """Before anything is written, the user learns that this is no login node."""
    with pytest.raises(ClusterError, match=r"sbatch, squeue, sacct.* not found"):
        Slurm(FakeSlurm(), {"PATH": str(tmp_path)}).available()


def test_a_path_with_every_command_is_enough(tmp_path: Path) -> None:
    """The PATH of the environment that was passed in counts, not this process's."""
    for name in COMMANDS:
        (tmp_path / name).touch(mode=0o755)
    Slurm(FakeSlurm(), {"PATH": str(tmp_path)}).available()


def test_nothing_of_an_enclosing_job_reaches_a_command() -> None:
    """SLURM_CPU_BIND and SBATCH_PARTITION stay out; the choice of cluster stays in."""
    fake = FakeSlurm(sbatch="7\n", sbatch_test=ESTIMATE)
    slurm = fake.gate(
        {"SLURM_CPU_BIND": "x", "SBATCH_PARTITION": "y", "SLURM_CONF": "/c", "A": "b"}
    )
    slurm.submit(SCRIPT)
    slurm.test_only(SCRIPT)
    assert fake.environments[0] == {"SLURM_CONF": "/c", "A": "b"}
    assert fake.environments[1]["SLURM_TIME_FORMAT"] == "%s"
    assert "SLURM_CPU_BIND" not in fake.environments[1]


def test_a_job_inherits_none_of_our_own_settings() -> None:
    """A job whose squeue prints Unix seconds would surprise its owner."""
    fake = FakeSlurm(sbatch="7\n")
    fake.gate({"PATH": "/bin"}).submit(SCRIPT)
    assert fake.environments == [{"PATH": "/bin"}]


def test_submit_returns_the_id_and_passes_the_dependency() -> None:
    """A job after a success is cancelled with it; a job after an end always runs."""
    fake = FakeSlurm(sbatch="7;cluster\n")
    assert fake.gate().submit(SCRIPT, "2", dependency=Dependency((3,), (4, 5)), array="0-3") == 7
    [argv] = fake.calls
    assert "--dependency=afterok:3,afterany:4:5" in argv
    assert "--kill-on-invalid-dep=yes" in argv
    assert argv[-2:] == [str(SCRIPT), "2"]
    fake.gate().submit(SCRIPT, dependency=Dependency(after_any=(4,)))
    assert "--kill-on-invalid-dep=yes" not in fake.calls[1]


def test_each_submission_bears_a_token_of_its_own() -> None:
    """A site's comment is kept, and stays JSON if it is JSON."""
    fake = FakeSlurm(sbatch="7\n")
    slurm = fake.gate()
    slurm.submit(SCRIPT)
    slurm.submit(SCRIPT, comment="budget 12")
    slurm.submit(SCRIPT, comment='{"reaper":{"exempt":60}}')
    plain, text, json = (comment_of(argv) for argv in fake.calls)
    assert plain.startswith("evalhpc-")
    assert text.startswith("budget 12 evalhpc-")
    assert json.startswith('{"reaper":{"exempt":60},"evalhpc":"evalhpc-')
    assert len({plain, text.split()[-1], json.split('"')[-2]}) == 3


def test_a_submission_without_an_answer_is_looked_up_and_adopted() -> None:
    """sbatch timed out, but the job is in the queue: it is not submitted again."""
    fake = FakeSlurm(sbatch=TIMEOUT)
    fake._answers["squeue_me"] = [
        lambda _: f"40_[0-3]|{comment_of(fake.named('sbatch')[0])}|\n9|(null)|\n"
    ]
    assert fake.gate().submit(SCRIPT, array="0-3") == 40
    assert len(fake.named("sbatch")) == 1


def test_a_submission_is_repeated_only_when_the_queue_does_not_have_it() -> None:
    """Several looks some seconds apart, because a request may wait in the controller's inbox."""
    fake = FakeSlurm(sbatch=[TIMEOUT, "41\n"], squeue_me="9|(null)|\n")
    assert fake.gate().submit(SCRIPT) == 41
    assert [fake.key(call) for call in fake.calls[:5]] == [
        "sbatch", "squeue_me", "squeue_me", "squeue_me", "sbatch",
    ]  # fmt: skip
    assert comment_of(fake.calls[0]) == comment_of(fake.calls[4])


def test_a_first_try_that_surfaces_late_is_cancelled() -> None:
    """After a second try, whatever else bears the token goes."""
    fake = FakeSlurm(sbatch=[TIMEOUT, "41\n"], scancel="")

    def queue(_: Sequence[str]) -> str:
        tries = fake.named("sbatch")
        token = comment_of(tries[0])
        return f"40|{token}|\n41|{token}|\n" if len(tries) > 1 else ""

    fake._answers["squeue_me"] = [queue]
    assert fake.gate().submit(SCRIPT) == 41
    assert fake.named("scancel") == [["scancel", "40"]]


def test_a_submission_that_was_never_taken_is_simply_repeated() -> None:
    """No connection, no job: there is nothing to look for in between."""
    fake = FakeSlurm(sbatch=[REFUSED_CONNECTION, REFUSED_CONNECTION, "42\n"], squeue_me="")
    assert fake.gate().submit(SCRIPT) == 42
    assert [fake.key(call) for call in fake.calls[:3]] == ["sbatch"] * 3
    assert fake.slept == [1, 2]


def test_a_doubt_that_cannot_be_settled_is_an_error_with_the_token() -> None:
    """Submitting again could run the work twice; the user gets the command that settles it."""
    fake = FakeSlurm(sbatch=TIMEOUT, squeue_me=message("squeue-no-controller"))
    with pytest.raises(ClusterError, match="nobody can say") as caught:
        fake.gate().submit(SCRIPT)
    assert comment_of(fake.named("sbatch")[0]) in caught.value.hint
    assert len(fake.named("sbatch")) == 1
    assert not caught.value.transient


def test_an_interrupted_submission_leaves_nothing_behind() -> None:
    """Ctrl-C during sbatch: the job that it may have made is cancelled."""
    fake = FakeSlurm(sbatch=KeyboardInterrupt(), scancel="")
    fake._answers["squeue_me"] = [lambda _: f"43|{comment_of(fake.named('sbatch')[0])}|\n"]
    with pytest.raises(KeyboardInterrupt):
        fake.gate().submit(SCRIPT)
    assert fake.named("scancel") == [["scancel", "43"]]


def test_a_refused_submission_is_not_repeated() -> None:
    """It would be refused again."""
    fake = FakeSlurm(sbatch=message("time-limit"), **OFFERS)
    with pytest.raises(ClusterError, match="time limit"):
        fake.gate().submit(SCRIPT)
    assert len(fake.named("sbatch")) == 1


def test_a_wrong_partition_is_answered_with_the_nearest_and_the_list() -> None:
    """The user need not run sinfo."""
    fake = FakeSlurm(sbatch_test=message("bad-partition-test"), **OFFERS)
    with pytest.raises(ClusterError) as caught:
        fake.gate().test_only(SCRIPT)
    assert "did you mean batch?" in caught.value.what
    assert "tiny: up, 3 nodes, 2 min, gpu:h100:2" in caught.value.what
    assert "slurm.partition" in caught.value.hint


def test_an_array_that_is_too_big_is_answered_with_the_limit() -> None:
    """The number is what the user needs."""
    fake = FakeSlurm(sbatch_test=message("array-too-big"), **OFFERS)
    with pytest.raises(ClusterError, match="at most 100001 tasks, numbered up to 100000"):
        fake.gate().test_only(SCRIPT, array="0-200000")


def test_a_refusal_is_shown_even_if_the_list_cannot_be_had() -> None:
    """The second failure must not hide the first."""
    fake = FakeSlurm(
        sbatch_test=message("bad-partition-test"), scontrol_partition=message("no-munge")
    )
    with pytest.raises(ClusterError, match="invalid partition specified"):
        fake.gate().test_only(SCRIPT)


def test_a_trial_submission_gives_the_estimate() -> None:
    """And is asked again while the controller is away."""
    fake = FakeSlurm(sbatch_test=[REFUSED_CONNECTION, ESTIMATE])
    assert fake.gate().test_only(SCRIPT).start == 1795254838
    assert fake.slept == [1]


def test_patience_ends() -> None:
    """Six tries within about half a minute, then an error that says so."""
    fake = FakeSlurm(squeue=message("squeue-no-controller"))
    with pytest.raises(ClusterError, match="Unable to contact slurm controller") as caught:
        fake.gate().jobs([1])
    assert len(fake.calls) == 6
    assert fake.slept == [1, 2, 4, 8, 15]
    assert "scontrol ping" in caught.value.hint


def test_jobs_in_the_queue_cost_one_question() -> None:
    """One squeue for all of them, and no sacct."""
    fake = FakeSlurm(squeue=captured("22.05/squeue.txt"))
    jobs = fake.gate().jobs([54, 53, 58, 58])
    assert {job: records[0].state for job, records in jobs.items()} == {
        53: "COMPLETED",
        54: "FAILED",
        58: "RUNNING",
    }
    assert fake.calls == [squeue([53, 54, 58])]


def test_what_the_controller_forgot_comes_from_the_accounting() -> None:
    """Whole jobs, and tasks of an array whose other tasks still run."""
    queue = "56_7|56|RUNNING|0|0|None|n1|1795255980|NONE|0:02|batch|array|\n"
    fake = FakeSlurm(squeue=queue, sacct=captured("22.05/sacct.txt"))
    jobs = fake.gate().jobs([55, 56, 63])
    assert jobs[55][0].signal == 9
    assert (jobs[63][0].state, jobs[63][0].restarts) == ("RUNNING", 1)
    assert [record.state for record in jobs[56]] == ["COMPLETED"] * 6 + ["RUNNING"] * 2
    assert "--jobs=55,56,63" in fake.named("sacct")[0]


def test_the_controller_is_believed_rather_than_the_accounting() -> None:
    """sacct lags some seconds behind."""
    queue = captured("22.05/squeue.txt").replace("56_4|68|RUNNING", "56_4|68|COMPLETING")
    fake = FakeSlurm(squeue=queue, sacct=captured("22.05/sacct.txt"))
    states = {record.task_id: record.state for record in fake.gate().jobs([56])[56]}
    assert states[4] == "COMPLETING"


def test_a_half_written_row_of_the_accounting_is_no_further_task() -> None:
    """Captured while an array was being cancelled: for some seconds sacct has such a row."""
    queue = (
        "7_[1-2,5%1]|7|CANCELLED|0|0|JobArrayTaskLimit||1795257186|1795257186|0:00|batch|j|\n"
        "7_0|8|CANCELLED|15|0|None|n1|1795257184|1795257186|0:02|batch|j|\n"
    )
    row = "7|7|CANCELLED by 20001|0:0|None|None assigned|1795257186|1795257186|0||allocation\n"
    records = FakeSlurm(squeue=queue, sacct=row).gate().jobs([7])[7]
    assert [record.task_id for record in records] == [0, 1, 2, 5]


@pytest.mark.parametrize("accounting", [message("sacct-disabled"), ""])
def test_what_nobody_knows_is_unknown(accounting: str | Finished) -> None:
    """Neither finished nor failed: the run's own files have to say."""
    fake = FakeSlurm(squeue=message("squeue-forgotten"), sacct=accounting)
    [record] = fake.gate().jobs([99999])[99999]
    assert (record.state, record.terminal, record.succeeded) == ("UNKNOWN", False, False)


def test_no_jobs_are_no_question() -> None:
    """squeue without ids would answer for the whole cluster."""
    fake = FakeSlurm()
    assert fake.gate().jobs([]) == {}
    fake.gate().cancel([])
    assert fake.calls == []


def test_cancelling_what_is_over_is_no_error() -> None:
    """Cancelling twice is the same as cancelling once."""
    over = "scancel: error: Kill job error on job id 18: Job/step already completing or completed\n"
    fake = FakeSlurm(scancel=Finished(("scancel",), 1, "", over))
    fake.gate().cancel([18, 20, 18])
    assert fake.calls == [["scancel", "20", "18"]]


def test_a_cancellation_that_is_denied_is_an_error() -> None:
    """The job goes on, and the user must know."""
    denied = "scancel: error: Kill job error on job id 18: Access/permission denied\n"
    fake = FakeSlurm(scancel=Finished(("scancel",), 1, "", denied))
    with pytest.raises(ClusterError, match="cannot cancel 18"):
        fake.gate().cancel([18])


def test_partitions_limits_and_version_are_read() -> None:
    """From scontrol, sinfo and sbatch."""
    fake = FakeSlurm(sbatch="slurm-wlm 22.05.8\n", **OFFERS)
    slurm = fake.gate()
    assert [partition.name for partition in slurm.partitions()][:2] == ["batch", "low"]
    assert slurm.limits().max_array_size == 100001
    assert slurm.version() == "22.05.8"


def test_pyxis_is_known_by_its_option() -> None:
    """srun's help lists the options of its plugins; the one for images is Pyxis's."""
    option = "      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH\n"
    assert FakeSlurm(srun=f"Usage: srun\n{option}").gate().has_pyxis()
    assert (
        not FakeSlurm(srun="      --container  Path to OCI container bundle\n").gate().has_pyxis()
    )
