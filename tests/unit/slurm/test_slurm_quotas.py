"""Which limit holds for a job, and what counts against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evalhpc.errors import ClusterError
from evalhpc.slurm.quotas import (
    Allowed,
    Pool,
    Queued,
    Quotas,
    parse_association_limits,
    parse_qos_limits,
    parse_queued,
)
from tests.slurm_fakes import FakeSlurm, captured

QUOTAS = Quotas(
    default_account="lab",
    associations=(
        Allowed("lab", default_qos="short", max_submit=50, max_seconds=3600),
        Allowed("lab", partition="gpu", max_submit=5),
        Allowed("other", max_submit=None),
    ),
    qos={
        "normal": Allowed("normal"),
        "short": Allowed("short", max_submit=20),
        "wide": Allowed("wide", max_submit=100, max_seconds=60),
    },
    partition_qos={"batch": "", "big": "wide", "gpu": ""},
    default_partition="batch",
    queued=(
        Queued("lab", "batch", "short", 3),
        Queued("lab", "gpu", "normal", 4),
        Queued("other", "big", "normal", 7),
    ),
)


@pytest.mark.parametrize(
    ("place", "pool"),
    [
        ((None, "", None), Pool("MaxSubmitJobsPerUser of QOS short", 20, 3)),
        (("lab", "batch", "normal"), Pool("MaxSubmitJobs of account lab", 50, 3)),
        (("lab", "gpu", None), Pool("MaxSubmitJobs of account lab in partition gpu", 5, 4)),
        (("lab", "big", None), Pool("MaxSubmitJobsPerUser of QOS wide", 100, 7)),
        (("other", "batch", None), None),
        (("nobody", "batch", None), None),
    ],
)
def test_the_first_limit_in_slurms_order_counts(
    place: tuple[str | None, str, str | None], pool: Pool | None
) -> None:
    """The partition's QOS, then the job's, then the association, each with its own jobs."""
    assert QUOTAS.pool(*place) == pool


def test_a_longest_walltime_comes_from_the_same_order() -> None:
    """A QOS without one leaves it to the association."""
    assert QUOTAS.longest(None, "", None) == ("MaxWall of account lab", 3600)
    assert QUOTAS.longest(None, "big", None) == ("MaxWall of QOS wide", 60)
    assert QUOTAS.longest("other", "", None) is None


def test_what_sacctmgr_and_squeue_print_is_read() -> None:
    """Unset limits are empty; each task of an array in one line counts."""
    assert parse_association_limits("lab||normal|6|\nlab|gpu|||1-00:00:00\n") == (
        Allowed("lab", default_qos="normal", max_submit=6),
        Allowed("lab", partition="gpu", max_seconds=86400),
    )
    assert parse_qos_limits("normal||\nshort|4|00:30:00\n") == {
        "normal": Allowed("normal"),
        "short": Allowed("short", max_submit=4, max_seconds=1800),
    }
    lines = "1_[0-3%2]|lab|batch|normal|\n1_7|lab|batch|normal|\n2|lab|batch|normal|\n"
    assert [queued.tasks for queued in parse_queued(lines)] == [4, 1, 1]
    with pytest.raises(ClusterError, match="name, maxsubmitpu, maxwall belong"):
        parse_qos_limits("normal\n")


def test_the_gate_gathers_them_for_one_user() -> None:
    """Partitions with their QOS, the default account, associations, QOS and the queue."""
    partitions = captured("22.05/partitions.txt").replace("QoS=N/A", "QoS=wide", 1)
    answers = {"user": "lab\n", "associations": "lab||normal|6|\n", "qos": "wide|9|\n"}

    def sacctmgr(argv: Sequence[str]) -> str:
        return next(text for word, text in answers.items() if word in argv)

    fake = FakeSlurm(
        scontrol_partition=partitions, sacctmgr=sacctmgr, squeue_me="1_[0-2]|lab|batch|normal|\n"
    )
    quotas = fake.gate().quotas("user")
    assert quotas.default_account == "lab"
    assert quotas.queued == (Queued("lab", "batch", "normal", 3),)
    assert next(iter(quotas.partition_qos.values())) == "wide"
    named = replace(quotas, partition_qos={})
    assert named.pool(None, "", None) == Pool("MaxSubmitJobs of account lab", 6, 3)


def test_a_runs_jobs_are_found_by_name_and_folder(tmp_path: Path) -> None:
    """Another run of the same name in another folder is not ours; a link to ours is."""
    run, link = tmp_path / "a|b", tmp_path / "link"
    run.mkdir()
    link.symlink_to(run)
    fake = FakeSlurm(squeue_me=f"11|r.x|{run}|\n12_[0-3]|r.y|{link}|\n13|r.x|{tmp_path}|\n")
    assert fake.gate().jobs_in(run, ["r.x", "r.y"]) == {11: "r.x", 12: "r.y"}
    [argv] = fake.calls
    assert "--name=r.x,r.y" in argv
