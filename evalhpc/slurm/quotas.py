"""What the accounting lets a user have in the queue, and how long a job may be. Pure.

Where several limits are set, Slurm takes the first of: the partition's QOS, the job's QOS, the
association. Each task of an array counts as a job, from its submission to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evalhpc.errors import ClusterError
from evalhpc.slurm.arrays import parse_reference
from evalhpc.slurm.commands import ASSOCIATION_LIMITS, OWN_FIELDS, QOS_LIMITS
from evalhpc.slurm.parsers import seconds


@dataclass(frozen=True)
class Queued:
    """Jobs of the user that count: an array's tasks that are in one line of squeue."""

    account: str
    partition: str
    qos: str
    tasks: int


@dataclass(frozen=True)
class Allowed:
    """The limits of one association or QOS; None: it sets none."""

    name: str  # of the account or QOS
    partition: str = ""  # of an association that is for one partition alone
    default_qos: str = ""
    max_submit: int | None = None
    max_seconds: int | None = None


@dataclass(frozen=True)
class Pool:
    """Jobs that are counted together: at most `limit`, of which `queued` are there."""

    label: str  # `MaxSubmitJobsPerUser of QOS normal`
    limit: int
    queued: int


@dataclass(frozen=True)
class Quotas:
    """All that the accounting says of a user, and what the user has in the queue."""

    default_account: str = ""
    associations: tuple[Allowed, ...] = ()
    qos: Mapping[str, Allowed] = field(default_factory=dict)
    partition_qos: Mapping[str, str] = field(default_factory=dict)
    default_partition: str = ""
    queued: tuple[Queued, ...] = ()

    def pool(self, account: str | None, partition: str, qos: str | None) -> Pool | None:
        """What a job counts against; None where nothing limits it.

        `partition` "" is the cluster's default.
        """
        for kind, limits in self._governing(account, partition, qos):
            if limits.max_submit is not None:
                count = self._count(limits, kind)
                return Pool(_label("MaxSubmitJobs", kind, limits), limits.max_submit, count)
        return None

    def longest(
        self, account: str | None, partition: str, qos: str | None
    ) -> tuple[str, int] | None:
        """(what sets the limit, seconds) of a job's walltime; None where nothing does."""
        for kind, limits in self._governing(account, partition, qos):
            if limits.max_seconds is not None:
                return _label("MaxWall", kind, limits), limits.max_seconds
        return None

    def _governing(
        self, account: str | None, partition: str, qos: str | None
    ) -> Iterable[tuple[str, Allowed]]:
        partition = partition or self.default_partition
        own = self._association(account or self.default_account, partition)
        for name in (
            self.partition_qos.get(partition, ""),
            qos or (own.default_qos if own else "") or "normal",
        ):
            if name in self.qos:
                yield "QOS", self.qos[name]
        if own is not None:
            yield "account", own

    def _association(self, account: str, partition: str) -> Allowed | None:
        fitting = [a for a in self.associations if a.name == account]
        named = (a for a in fitting if a.partition == partition != "")
        return next(named, next((a for a in fitting if not a.partition), None))

    def _count(self, limits: Allowed, kind: str) -> int:
        def in_qos(job: Queued) -> bool:
            return limits.name in (job.qos, self.partition_qos.get(job.partition))

        def in_account(job: Queued) -> bool:
            return self._association(job.account, job.partition) == limits

        counts: Callable[[Queued], bool] = in_qos if kind == "QOS" else in_account
        return sum(job.tasks for job in self.queued if counts(job))


def _label(limit: str, kind: str, limits: Allowed) -> str:
    where = f" in partition {limits.partition}" if limits.partition else ""
    per_user = "PerUser" if kind == "QOS" and limit == "MaxSubmitJobs" else ""
    return f"{limit}{per_user} of {kind} {limits.name}{where}"


def parse_queued(stdout: str) -> tuple[Queued, ...]:
    """The user's own jobs of `commands.squeue_own`."""
    rows = (line.removesuffix("|").split("|") for line in stdout.splitlines() if line.strip())
    return tuple(_queued(_checked(row, OWN_FIELDS, "squeue")) for row in rows)


def parse_association_limits(stdout: str) -> tuple[Allowed, ...]:
    """Associations of `commands.association_limits`."""
    return tuple(
        Allowed(account, partition, default_qos, _number(submit), seconds(wall))
        for account, partition, default_qos, submit, wall in _rows(stdout, ASSOCIATION_LIMITS)
    )


def parse_qos_limits(stdout: str) -> dict[str, Allowed]:
    """QOS name → its limits, of `commands.qos_limits`."""
    return {
        name: Allowed(name, max_submit=_number(submit), max_seconds=seconds(wall))
        for name, submit, wall in _rows(stdout, QOS_LIMITS)
    }


def _queued(row: Sequence[str]) -> Queued:
    job, account, partition, qos = row
    tasks = parse_reference(job).tasks
    return Queued(account, partition, qos, 1 if tasks is None else len(tasks))


def _rows(stdout: str, fields: Sequence[str]) -> list[Sequence[str]]:
    lines = filter(str.strip, stdout.splitlines())
    return [_checked(line.split("|"), fields, "sacctmgr") for line in lines]


def _checked(row: Sequence[str], fields: Sequence[str], who: str) -> Sequence[str]:
    if len(row) != len(fields):
        raise ClusterError(f"{who} printed {'|'.join(row)!r} where {', '.join(fields)} belong")
    return row


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
