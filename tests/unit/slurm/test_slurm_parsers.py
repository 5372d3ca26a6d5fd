"""The text of real Slurm commands becomes records."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.errors import ClusterError
from evalhpc.slurm import parsers
from evalhpc.slurm.jobs import JobRecord, by_submission, latest_attempts
from tests.slurm_fakes import captured

TEST_ONLY = "sbatch: Job 5 to start at {} using 2 processors on nodes n[1-2] in partition batch\n"


def squeue() -> dict[str, JobRecord]:
    return {record.label: record for record in parsers.parse_squeue(captured("22.05/squeue.txt"))}


def sacct() -> list[JobRecord]:
    return parsers.parse_sacct(captured("22.05/sacct.txt"))


@pytest.mark.parametrize("text", ["123\n", "123;cluster\n", "welcome to the cluster\n123\n"])
def test_the_job_id_is_found_in_what_sbatch_prints(text: str) -> None:
    """With a cluster name, and after a site's own chatter."""
    assert parsers.parse_job_id(text) == 123


def test_an_sbatch_that_prints_no_id_is_an_error() -> None:
    """An id must never be guessed."""
    with pytest.raises(ClusterError, match="no job id"):
        parsers.parse_job_id("Submitted batch job\n")


def test_the_estimate_of_a_trial_submission_is_read() -> None:
    """Start in Unix seconds, processors, nodes and partition."""
    estimate = parsers.parse_test_only(TEST_ONLY.format(1795254838))
    assert (estimate.start, estimate.processors) == (1795254838, 2)
    assert (estimate.node_list, estimate.partition) == ("n[1-2]", "batch")


def test_a_start_in_local_time_is_read_too() -> None:
    """A site's wrapper may drop SLURM_TIME_FORMAT."""
    estimate = parsers.parse_test_only(TEST_ONLY.format("2026-11-21T09:51:33"))
    assert time.localtime(estimate.start)[:6] == (2026, 11, 21, 9, 51, 33)


@pytest.mark.parametrize(
    "text", ["sbatch: fine\n", TEST_ONLY.format("tomorrow"), TEST_ONLY.format("Tomr 12:00"), ""]
)
def test_an_unknown_estimate_is_no_estimate(text: str) -> None:
    """A later Slurm's wording must not turn an accepted script into a failure."""
    assert parsers.parse_test_only(text).start is None


def test_the_estimate_is_found_among_a_sites_chatter() -> None:
    """Lines of a job_submit plugin come first; one node stands without `nodes`."""
    said = "lua: job accepted\nsbatch: Job 7 to start at 2026-11-21T09:51:33 using 128 processors"
    estimate = parsers.parse_test_only(f"{said} on nid001 in partition gpu\n")
    assert (estimate.node_list, estimate.partition) == ("nid001", "gpu")


def test_squeue_gives_a_record_for_each_task_running_or_not() -> None:
    """Tasks 0-3 ended, 4-5 run, 6-7 wait in one line of their own."""
    tasks = [record for record in squeue().values() if record.array_job_id == 56]
    states = {record.task_id: record.state for record in tasks}
    assert states == {
        **dict.fromkeys(range(4), "COMPLETED"),
        **dict.fromkeys((4, 5), "RUNNING"),
        **dict.fromkeys((6, 7), "PENDING"),
    }


def test_squeue_shows_how_a_job_ended() -> None:
    """squeue prints the raw wait status: 1792 is exit code 7, 9 is signal 9."""
    jobs = squeue()
    assert (jobs["53"].exit_code, jobs["53"].signal) == (0, 0)
    assert (jobs["54"].exit_code, jobs["54"].signal) == (7, 0)
    assert (jobs["55"].exit_code, jobs["55"].signal) == (0, 9)
    assert (jobs["58"].exit_code, jobs["58"].signal) == (None, None)


def test_squeue_shows_times_reasons_and_restarts() -> None:
    """A running job has no end, whatever its time limit; a requeued one counts its restarts."""
    jobs = squeue()
    assert (jobs["54"].start, jobs["54"].end) == (1795255966, 1795255967)
    assert (jobs["58"].start, jobs["58"].end) == (1795255966, None)
    assert (jobs["58"].elapsed_seconds, jobs["58"].node_list) == (13, "n[1-2]")
    assert (jobs["59"].reason, jobs["60"].reason) == ("JobHeldUser", "Dependency")
    assert (jobs["63"].restarts, jobs["63"].partition) == (1, "low")


def test_a_name_may_contain_the_separator() -> None:
    """The name is the last field, so that it can hold anything."""
    assert squeue()["57_5"].name == "odd|name"
    assert {r.name for r in sacct() if r.array_job_id == 57} == {"odd|name"}


def test_sacct_shows_exit_codes_signals_and_who_cancelled_is_dropped() -> None:
    """`7:0`, `0:9`, `CANCELLED by 65534`."""
    jobs = {record.label: record for record in sacct()}
    assert (jobs["54"].exit_code, jobs["54"].signal) == (7, 0)
    assert (jobs["55"].exit_code, jobs["55"].signal) == (0, 9)
    assert jobs["64"].state == "CANCELLED"
    assert (jobs["59"].node_list, jobs["59"].start) == ("", None)


def test_sacct_shows_every_attempt_and_the_last_one_counts() -> None:
    """Job 63 was preempted and runs again: one record, one restart."""
    attempts = [record.state for record in sacct() if record.job_id == 63]
    assert attempts == ["PREEMPTED", "RUNNING"]
    latest = {record.label: record for record in latest_attempts(sacct())}
    assert (latest["63"].state, latest["63"].restarts) == ("RUNNING", 1)
    assert latest["53"].restarts == 0


def test_records_are_grouped_by_what_sbatch_printed() -> None:
    """Tasks have numbers of their own; the array's number is the one that was recorded."""
    groups = by_submission(latest_attempts(sacct()))
    assert [record.task_id for record in groups[56]] == list(range(8))
    assert len({record.job_id for record in groups[56]}) == 8


def test_comments_are_paired_with_the_submitted_id() -> None:
    """Tasks of an array all stand for the array."""
    comments = parsers.parse_squeue_comments(captured("22.05/comments.txt"))
    assert (53, "evalhpc-0f") in comments
    assert (56, "(null)") in comments
    assert parsers.parse_squeue_comments("9|a|b|\n") == [(9, "a|b")]


def test_partitions_have_their_limits_and_nodes() -> None:
    """Limits come from scontrol, what nodes offer from sinfo."""
    partitions = {
        partition.name: partition
        for partition in parsers.parse_partitions(
            captured("22.05/partitions.txt"), captured("22.05/sinfo.txt")
        )
    }
    assert list(partitions) == ["batch", "low", "high", "tiny", "closed"]
    assert (partitions["batch"].default, partitions["tiny"].default) == (True, False)
    assert (partitions["batch"].max_seconds, partitions["tiny"].max_seconds) == (None, 120)
    assert partitions["closed"].state == "DOWN"
    assert partitions["batch"].gres == ("gpu:h100:2",)
    assert (partitions["batch"].total_nodes, partitions["batch"].idle_nodes) == (3, 0)
    assert partitions["tiny"].summary() == "tiny: up, 3 nodes, 2 min, gpu:h100:2"


def test_nodes_count_as_idle_when_powered_down_and_gres_lose_their_sockets() -> None:
    """`idle~` wakes up when asked; `(S:0-1)` says which sockets hold the GPUs."""
    [partition] = parsers.parse_partitions(
        "PartitionName=a State=UP TotalNodes=5\n",
        "a*|2|idle~|gpu:h100:8(S:0-1)\na*|3|alloc|(null)\n",
    )
    assert (partition.idle_nodes, partition.gres) == (2, ("gpu:h100:8",))


def test_limits_are_those_of_the_controller() -> None:
    """The highest task id is one below MaxArraySize; an option may allow fewer tasks."""
    config = captured("22.05/config.txt")
    limits = parsers.parse_limits(config)
    assert (limits.max_array_size, limits.max_array_tasks) == (100001, 100001)
    assert (limits.max_job_count, limits.accounting, limits.cluster) == (200000, True, "lab")
    fewer = config.replace("sched_max_job_start=0", "max_array_tasks=500")
    assert parsers.parse_limits(fewer).max_array_tasks == 500
    without = config.replace("accounting_storage/slurmdbd", "accounting_storage/none")
    assert not parsers.parse_limits(without).accounting


def test_the_version_is_a_number() -> None:
    """Debian calls it slurm-wlm."""
    assert parsers.parse_version("slurm-wlm 22.05.8\n") == "22.05.8"
    assert parsers.parse_version("slurm 24.05.4-1\n") == "24.05.4-1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2:00", 120), ("02:03:04", 7384), ("1-02:03:04", 93784), ("61", 61), ("0:00", 0),
     ("UNLIMITED", None), ("infinite", None), ("NONE", None), ("INVALID", None)],
)  # fmt: skip
def test_durations_are_read_as_slurm_writes_them(text: str, expected: int | None) -> None:
    """Minutes and seconds, never hours and minutes."""
    assert parsers.seconds(text) == expected


@given(st.integers(0, 255), st.integers(0, 64))
def test_both_notations_of_an_exit_agree(code: int, signal: int) -> None:
    """`7:0` of sacct and 1792 of squeue are the same exit."""
    assert parsers.parse_exit(f"{code}:{signal}") == parsers.parse_exit(str(code << 8 | signal))


def test_a_line_with_too_few_fields_is_an_error() -> None:
    """A field that an older Slurm does not know must not shift the others."""
    with pytest.raises(ClusterError, match="fields"):
        parsers.parse_sacct("53|53|COMPLETED\n")
