"""The limits of associations, accounts and QOS, and the queue they count, as Slurm prints them."""

from __future__ import annotations

from collections.abc import Sequence

from evalhpc.errors import ClusterError
from evalhpc.slurm.arrays import parse_reference
from evalhpc.slurm.commands import ACCOUNT_LIMITS, ASSOCIATION_LIMITS, OWN_FIELDS, QOS_LIMITS
from evalhpc.slurm.parsers import seconds
from evalhpc.slurm.quotas import Allowed, Queued

_OVER_PARTITION = "OverPartQOS"


def parse_queued(stdout: str) -> tuple[Queued, ...]:
    """The jobs of `commands.squeue_own` and `commands.squeue_everybody`."""
    rows = (line.removesuffix("|").split("|") for line in stdout.splitlines() if line.strip())
    return tuple(_queued(_checked(row, OWN_FIELDS, "squeue")) for row in rows)


def parse_association_limits(stdout: str) -> tuple[Allowed, ...]:
    """A user's associations, of `commands.association_limits`."""
    return tuple(
        Allowed(
            account, partition, default_qos,
            _number(submit), seconds(wall), _number(jobs), _number(grp_submit), _number(grp_jobs),
        )
        for account, partition, default_qos, submit, wall, jobs, grp_submit, grp_jobs in _rows(
            stdout, ASSOCIATION_LIMITS
        )
    )  # fmt: skip


def parse_account_limits(stdout: str) -> dict[str, Allowed]:
    """Account → what holds for all jobs under it, of `commands.account_limits`."""
    return {
        name: Allowed(name, grp_submit=_number(submit), grp_jobs=_number(jobs), parent=parent)
        for name, parent, submit, jobs in _rows(stdout, ACCOUNT_LIMITS)
    }


def parse_qos_limits(stdout: str) -> dict[str, Allowed]:
    """QOS name → its limits, of `commands.qos_limits`."""
    return {
        row[0]: Allowed(
            row[0], max_submit=_number(row[2]), max_seconds=seconds(row[3]),
            max_jobs=_number(row[4]), grp_submit=_number(row[5]), grp_jobs=_number(row[6]),
            account_submit=_number(row[7]), account_jobs=_number(row[8]),
            over_partition=_OVER_PARTITION in row[1].split(","),
        )
        for row in _rows(stdout, QOS_LIMITS)
    }  # fmt: skip


def _queued(row: Sequence[str]) -> Queued:
    job, account, partition, qos, user = row
    tasks = parse_reference(job).tasks
    count = 1 if tasks is None else len(tasks)
    return Queued(account, partition.partition(",")[0], qos, count, user)


def _rows(stdout: str, fields: Sequence[str]) -> list[Sequence[str]]:
    lines = filter(str.strip, stdout.splitlines())
    return [_checked(line.split("|"), fields, "sacctmgr") for line in lines]


def _checked(row: Sequence[str], fields: Sequence[str], who: str) -> Sequence[str]:
    if len(row) != len(fields):
        raise ClusterError(f"{who} printed {'|'.join(row)!r} where {', '.join(fields)} belong")
    return row


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
