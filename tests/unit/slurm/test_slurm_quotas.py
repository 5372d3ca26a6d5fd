"""Which limit holds for a job, and what counts against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evalhpc.errors import ClusterError
from evalhpc.slurm.quota_parsers import (
    parse_account_limits,
    parse_association_limits,
    parse_qos_limits,
    parse_queued,
)
from evalhpc.slurm.quotas import Allowed, Pool, Queued, Quotas
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
    assert QUOTAS.pools(*place) == ((pool,) if pool else ())


SHARED = Quotas(
    user="me",
    default_account="lab",
    associations=(Allowed("lab", max_submit=50, max_jobs=40, grp_submit=45),),
    accounts={
        "root": Allowed("root"),
        "dept": Allowed("dept", grp_submit=30, grp_jobs=9, parent="root"),
        "lab": Allowed("lab", grp_jobs=12, parent="dept"),
        "other": Allowed("other", grp_submit=1, parent="dept"),
    },
    qos={
        "normal": Allowed("normal"),
        "group": Allowed("group", grp_submit=20, grp_jobs=0),
        "each": Allowed("each", account_submit=10, account_jobs=3, max_submit=8, max_jobs=2),
        "first": Allowed("first", max_submit=7, over_partition=True),
        "shared": Allowed("shared", account_submit=10),
    },
    partition_qos={"batch": "", "big": "each", "accounts": "shared"},
    default_partition="batch",
    queued=(
        Queued("lab", "batch", "normal", 1, "me"),
        Queued("lab", "batch", "group", 2, "you"),
        Queued("lab", "big", "normal", 3, "you"),
        Queued("other", "big", "group", 4, "me"),
        Queued("else", "batch", "each", 5, "you"),
        Queued("else", "accounts", "normal", 6, "me"),
    ),
)


@pytest.mark.parametrize(
    ("place", "pools"),
    [
        (
            ("lab", "batch", None),
            [("MaxSubmitJobs of account lab", 50, 1), ("GrpSubmitJobs of me in account lab", 45, 1),
             ("GrpSubmitJobs of account dept", 30, 10)],
        ),
        (
            ("lab", "batch", "group"),
            [("GrpSubmitJobs of QOS group", 20, 6), ("MaxSubmitJobs of account lab", 50, 1)],
        ),
        (
            ("lab", "big", "group"),
            [("MaxSubmitJobsPerUser of QOS each", 8, 4),
             ("MaxSubmitJobsPerAccount of QOS each", 10, 3), ("GrpSubmitJobs of QOS group", 20, 6)],
        ),
        (
            ("lab", "accounts", None),
            [("MaxSubmitJobsPerAccount of QOS shared", 10, 0),
             ("GrpSubmitJobs of me in account lab", 45, 1),
             ("GrpSubmitJobs of account dept", 30, 10)],
        ),
        (
            ("nobody", "big", "first"),
            [("MaxSubmitJobsPerUser of QOS first", 7, 0),
             ("MaxSubmitJobsPerAccount of QOS each", 10, 0)],
        ),
    ],
)  # fmt: skip
def test_limits_of_users_accounts_and_groups_hold_side_by_side(
    place: tuple[str, str, str | None], pools: list[tuple[str, int, int]]
) -> None:
    """Each sort from the first QOS that has it; a QOS of users or accounts replaces the
    association's own, one of a group those of all accounts above; others' jobs count."""
    assert sorted(SHARED.pools(*place), key=str) == sorted((Pool(*pool) for pool in pools), key=str)


def test_jobs_that_run_have_limits_in_the_same_order() -> None:
    """Slurm takes what is beyond them, so that they are no pools."""
    assert set(SHARED.at_once("lab", "", None)) == {
        ("MaxJobs of account lab", 40), ("GrpJobs of account lab", 12),
        ("GrpJobs of account dept", 9),
    }  # fmt: skip
    assert set(SHARED.at_once("lab", "big", "group")) == {
        ("MaxJobsPerUser of QOS each", 2), ("MaxJobsPerAccount of QOS each", 3),
        ("GrpJobs of QOS group", 0),
    }  # fmt: skip


def test_a_longest_walltime_comes_from_the_same_order() -> None:
    """A QOS without one leaves it to the association."""
    assert QUOTAS.longest(None, "", None) == ("MaxWall of account lab", 3600)
    assert QUOTAS.longest(None, "big", None) == ("MaxWall of QOS wide", 60)
    assert QUOTAS.longest("other", "", None) is None


def test_what_sacctmgr_and_squeue_print_is_read() -> None:
    """Unset limits are empty; each task of an array in one line counts."""
    lines = "lab||normal|6||7|8|9\nlab|gpu|||1-00:00:00|||\n"
    assert parse_association_limits(lines) == (
        Allowed("lab", "", "normal", 6, None, 7, 8, 9),
        Allowed("lab", partition="gpu", max_seconds=86400),
    )
    assert parse_account_limits("root|||\nlab|root|20|9\n") == {
        "root": Allowed("root"),
        "lab": Allowed("lab", grp_submit=20, grp_jobs=9, parent="root"),
    }
    assert parse_qos_limits(
        "normal||||||||\nshort|DenyOnLimit,OverPartQOS|4|00:30:00|1|3|2|5|6\n"
    ) == {
        "normal": Allowed("normal"),
        "short": Allowed(
            "short", max_submit=4, max_seconds=1800, max_jobs=1, grp_submit=3, grp_jobs=2,
            account_submit=5, account_jobs=6, over_partition=True,
        ),
    }  # fmt: skip
    lines = "1_[0-3%2]|lab|batch,low|normal|me|\n1_7|lab|batch|normal|me|\n2|lab|b|normal|you|\n"
    queued = parse_queued(lines)
    assert [jobs.tasks for jobs in queued] == [4, 1, 1]
    assert queued[0] == Queued("lab", "batch", "normal", 4, "me")
    with pytest.raises(ClusterError, match=r"name, flags, maxsubmitpu, maxwall, .* belong"):
        parse_qos_limits("normal\n")


def test_the_gate_gathers_them_for_one_user() -> None:
    """Partitions with their QOS, the default account, associations, QOS and the queue."""
    partitions = captured("22.05/partitions.txt").replace("QoS=N/A", "QoS=wide", 1)
    answers = {
        "user": "lab\n", "user=": "lab|root||\n", "associations": "lab||normal|6||||\n",
        "qos": "wide||9||||||\n",
    }  # fmt: skip

    def sacctmgr(argv: Sequence[str]) -> str:
        assert "associations" not in argv or "cluster=c" in argv
        return next(text for word, text in answers.items() if word in argv)

    fake = FakeSlurm(
        scontrol_partition=partitions, sacctmgr=sacctmgr,
        squeue_me="1_[0-2]|lab|batch|normal|me|\n",
        squeue="1_[0-2]|lab|batch|normal|me|\n9|lab|batch|normal|you|\n",
    )  # fmt: skip
    quotas = fake.gate().quotas("me", "c")
    assert quotas.default_account == "lab"
    assert quotas.queued == (Queued("lab", "batch", "normal", 3, "me"),)
    assert next(iter(quotas.partition_qos.values())) == "wide"
    named = replace(quotas, partition_qos={})
    assert named.pools(None, "", None) == (Pool("MaxSubmitJobs of account lab", 6, 3),)
    assert not fake.named("squeue")
    answers["user="] = "lab|root|8|\n"
    shared = replace(fake.gate().quotas("me", "c"), partition_qos={})
    assert Pool("GrpSubmitJobs of account lab", 8, 4) in shared.pools(None, "", None)


def test_a_runs_jobs_are_found_by_name_and_folder(tmp_path: Path) -> None:
    """Another run of the same name in another folder is not ours; a link to ours is."""
    run, link = tmp_path / "a|b", tmp_path / "link"
    run.mkdir()
    link.symlink_to(run)
    fake = FakeSlurm(squeue_me=f"11|r.x|{run}|\n12_[0-3]|r.y|{link}|\n13|r.x|{tmp_path}|\n")
    assert fake.gate().jobs_in(run, ["r.x", "r.y"]) == {11: "r.x", 12: "r.y"}
    [argv] = fake.calls
    assert "--name=r.x,r.y" in argv
