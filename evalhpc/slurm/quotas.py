"""What the accounting lets a user have in the queue, and how long a job may be. Pure.

Where several limits of one sort are set, Slurm takes the first of: the partition's QOS, the job's
QOS (the other way round where that has the flag OverPartQOS), the association. Limits of different
sorts hold side by side: of a user, of an account, of a whole QOS, and of each account above
(https://slurm.schedmd.com/resource_limits.html). Each task of an array counts as a job, from its
submission to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial


@dataclass(frozen=True)
class Queued:
    """Jobs that count: an array's tasks that are in one line of squeue."""

    account: str
    partition: str  # the first one of several
    qos: str
    tasks: int
    user: str = ""


@dataclass(frozen=True)
class Allowed:
    """The limits of one association or QOS; None: it sets none."""

    name: str  # of the account or QOS
    partition: str = ""  # of an association that is for one partition alone
    default_qos: str = ""
    max_submit: int | None = None  # of an association; of a QOS: for each user
    max_seconds: int | None = None
    max_jobs: int | None = None  # the same, of those that run
    grp_submit: int | None = None  # all jobs under it together
    grp_jobs: int | None = None
    account_submit: int | None = None  # of a QOS: for each account
    account_jobs: int | None = None
    parent: str = ""  # of an account: the one above
    over_partition: bool = False  # of a QOS: it counts before the partition's

    def of(self, sort: str, *, running: bool) -> int | None:
        """The limit of a sort: `own`, `account` (of a QOS) or `group`."""
        submit, jobs = {
            "own": (self.max_submit, self.max_jobs),
            "account": (self.account_submit, self.account_jobs),
            "group": (self.grp_submit, self.grp_jobs),
        }[sort]
        return jobs if running else submit


@dataclass(frozen=True)
class Pool:
    """Jobs that are counted together: at most `limit`, of which `queued` are there."""

    label: str  # `MaxSubmitJobsPerUser of QOS normal`
    limit: int
    queued: int


@dataclass(frozen=True)
class _Limit:
    """One that holds for a job, and which jobs in the queue count against it."""

    label: str
    most: int
    counts: Callable[[Queued], bool]


@dataclass(frozen=True)
class Quotas:
    """All that the accounting says of a user, and what is in the queue, as far as it is shown."""

    default_account: str = ""
    associations: tuple[Allowed, ...] = ()  # the user's own
    qos: Mapping[str, Allowed] = field(default_factory=dict)
    partition_qos: Mapping[str, str] = field(default_factory=dict)
    default_partition: str = ""
    queued: tuple[Queued, ...] = ()
    accounts: Mapping[str, Allowed] = field(default_factory=dict)
    user: str = ""

    def pools(self, account: str | None, partition: str, qos: str | None) -> tuple[Pool, ...]:
        """All that a job counts against at its submission; none where nothing limits it.

        `partition` "" is the cluster's default.
        """
        return tuple(
            Pool(
                limit.label, limit.most, sum(job.tasks for job in self.queued if limit.counts(job))
            )
            for limit in self._limits(account, partition, qos, running=False)
        )

    def at_once(
        self, account: str | None, partition: str, qos: str | None
    ) -> tuple[tuple[str, int], ...]:
        """(what sets the limit, jobs that may run at a time) for all that a job counts against.

        Slurm takes a job that is beyond these, and lets it wait.
        """
        limits = self._limits(account, partition, qos, running=True)
        return tuple((limit.label, limit.most) for limit in limits)

    def longest(
        self, account: str | None, partition: str, qos: str | None
    ) -> tuple[str, int] | None:
        """(what sets the limit, seconds) of a job's walltime; None where nothing does."""
        partition = partition or self.default_partition
        own = self._association(account or self.default_account, partition)
        limits = [("QOS", found) for found in self._qos_in_order(own, partition, qos)]
        for kind, found in [*limits, *([("account", own)] if own else [])]:
            if found.max_seconds is not None:
                return _label("MaxWall", kind, found), found.max_seconds
        return None

    @property
    def counts_others(self) -> bool:
        """Whether jobs of other users count for anything here."""
        limited = [*self.qos.values(), *self.accounts.values()]
        return any(x.grp_submit is not None or x.account_submit is not None for x in limited)

    def _limits(
        self, account: str | None, partition: str, qos: str | None, *, running: bool
    ) -> Iterator[_Limit]:
        account = account or self.default_account
        partition = partition or self.default_partition
        own = self._association(account, partition)
        in_order = self._qos_in_order(own, partition, qos)
        first = {
            sort: next((q for q in in_order if q.of(sort, running=running) is not None), None)
            for sort in ("own", "account", "group")
        }
        for sort, found in first.items():
            if found is not None:
                counts = partial(self._in_qos, found, sort, account)
                yield _limit(sort, "QOS", found, counts, running=running)
        if own is None:
            return
        if first["own"] is None and first["account"] is None:
            yield from self._of_association("own", own, running=running)
        if first["group"] is None:
            yield from self._of_association("group", own, running=running)
            for above in self._above(account):
                if above.of("group", running=running) is not None:
                    counts = partial(self._is_below, above.name)
                    yield _limit("group", "account", above, counts, running=running)

    def _of_association(self, sort: str, own: Allowed, *, running: bool) -> Iterator[_Limit]:
        if own.of(sort, running=running) is not None:
            kind = "account" if sort == "own" else f"{self.user or 'the user'} in account"
            yield _limit(sort, kind, own, partial(self._is_of, own), running=running)

    def _qos_in_order(self, own: Allowed | None, partition: str, qos: str | None) -> list[Allowed]:
        names = [
            self.partition_qos.get(partition, ""),
            qos or (own.default_qos if own else "") or "normal",
        ]
        found = [self.qos[name] for name in dict.fromkeys(names) if name in self.qos]
        return found[::-1] if found and found[-1].over_partition else found

    def _association(self, account: str, partition: str) -> Allowed | None:
        fitting = [a for a in self.associations if a.name == account]
        named = (a for a in fitting if a.partition == partition != "")
        return next(named, next((a for a in fitting if not a.partition), None))

    def _above(self, account: str) -> Iterator[Allowed]:
        """The account itself, and those that it belongs to, up to the root."""
        seen: set[str] = set()
        while account in self.accounts and account not in seen:
            seen.add(account)
            yield self.accounts[account]
            account = self.accounts[account].parent

    def _in_qos(self, qos: Allowed, sort: str, account: str, job: Queued) -> bool:
        if qos.name not in (job.qos, self.partition_qos.get(job.partition)):
            return False
        return {"own": job.user == self.user, "account": job.account == account}.get(sort, True)

    def _is_of(self, own: Allowed, job: Queued) -> bool:
        return job.user == self.user and self._association(job.account, job.partition) == own

    def _is_below(self, account: str, job: Queued) -> bool:
        return any(above.name == account for above in self._above(job.account))


def _limit(
    sort: str, kind: str, found: Allowed, counts: Callable[[Queued], bool], *, running: bool
) -> _Limit:
    name = f"{'Grp' if sort == 'group' else 'Max'}{'' if running else 'Submit'}Jobs"
    if kind == "QOS":
        name += {"own": "PerUser", "account": "PerAccount"}.get(sort, "")
    most = found.of(sort, running=running)
    return _Limit(_label(name, kind, found), 0 if most is None else most, counts)


def _label(limit: str, kind: str, limits: Allowed) -> str:
    where = f" in partition {limits.partition}" if limits.partition else ""
    return f"{limit} of {kind} {limits.name}{where}"
