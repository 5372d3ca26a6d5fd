"""What Slurm says of jobs and partitions, as frozen data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from evalhpc.slurm.states import STATES, UNKNOWN, is_terminal


@dataclass(frozen=True)
class JobRecord:
    """One attempt of a job, or of one array task; times are Unix seconds.

    `exit_code` and `signal` are None until the job has ended. `start` of a pending job is when
    Slurm expects it to start.
    """

    job_id: int  # Slurm's own number, different for every started array task
    array_job_id: int | None = None  # the number that sbatch printed, for array tasks
    task_id: int | None = None
    name: str = ""
    state: str = UNKNOWN
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    node_list: str = ""
    start: int | None = None
    end: int | None = None
    elapsed_seconds: int | None = None
    restarts: int = 0
    partition: str = ""

    @property
    def submitted_id(self) -> int:
        """The number that sbatch printed."""
        return self.job_id if self.array_job_id is None else self.array_job_id

    @property
    def label(self) -> str:
        """`123` or `123_4`."""
        task = "" if self.task_id is None else f"_{self.task_id}"
        return f"{self.submitted_id}{task}"

    @property
    def terminal(self) -> bool:
        """Whether it has ended, one way or another."""
        return is_terminal(self.state)

    @property
    def succeeded(self) -> bool:
        """Whether it has ended with exit code 0."""
        return self.terminal and STATES[self.state].success


@dataclass(frozen=True)
class Partition:
    """One partition: its limits (None: no limit, or no default) and its nodes."""

    name: str
    default: bool = False
    state: str = "UP"  # UP, DOWN, DRAIN, INACTIVE
    max_seconds: int | None = None
    default_seconds: int | None = None
    max_nodes: int | None = None
    total_nodes: int = 0
    idle_nodes: int = 0
    gres: tuple[str, ...] = ()  # what a node offers, each kind once: ("gpu:h100:8",)
    allow_accounts: str = "ALL"
    exclusive: bool = False  # nodes are never shared
    qos: str = ""  # whose limits all jobs in it have, besides those of their own

    def summary(self) -> str:
        """One line for an error text or a table."""
        limit = "no time limit" if self.max_seconds is None else f"{self.max_seconds // 60} min"
        parts = [self.state.lower(), f"{self.total_nodes} nodes", limit, *self.gres]
        return f"{self.name}{' (default)' if self.default else ''}: {', '.join(parts)}"


@dataclass(frozen=True)
class Limits:
    """What the controller's configuration allows."""

    max_array_size: int  # the highest task id is one less
    max_array_tasks: int
    max_job_count: int
    accounting: bool
    cluster: str
    enforced: tuple[str, ...] = ()  # of the accounting: associations, limits, qos


@dataclass(frozen=True)
class TestOnly:
    """What `sbatch --test-only` answered.

    A start decades ahead means that Slurm cannot say when: a limit of the account holds the job.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    start: int | None = None  # Unix seconds
    processors: int = 0
    node_list: str = ""
    partition: str = ""


@dataclass(frozen=True)
class Dependency:
    """Jobs to wait for: those that must succeed, only end, or arrays of which one task must have
    begun: their first, since Slurm cannot wait for any and for something else as well."""

    after_ok: tuple[int, ...] = ()
    after_any: tuple[int, ...] = ()
    after_begin: tuple[int, ...] = ()

    def __str__(self) -> str:
        kinds = (
            ("afterok", map(str, self.after_ok)),
            ("afterany", map(str, self.after_any)),
            ("after", (f"{job}_0" for job in self.after_begin)),
        )
        listed = ((kind, ":".join(ids)) for kind, ids in kinds)
        return ",".join(f"{kind}:{ids}" for kind, ids in listed if ids)


def default_partition(partitions: Iterable[Partition]) -> Partition | None:
    """The one of jobs that name none; None where each has to name one."""
    return next((partition for partition in partitions if partition.default), None)


def latest_attempts(records: Sequence[JobRecord]) -> list[JobRecord]:
    """The last attempt of each job or task; `restarts` counts the ones before it."""
    latest: dict[tuple[int, int | None], JobRecord] = {}
    for record in records:
        key = (record.submitted_id, record.task_id)
        before = latest.get(key)
        restarts = record.restarts if before is None else max(record.restarts, before.restarts + 1)
        latest[key] = replace(record, restarts=restarts)
    return list(latest.values())


def by_submission(records: Iterable[JobRecord]) -> dict[int, list[JobRecord]]:
    """Records by the number that sbatch printed, in the order of their task ids.

    While an array is being cancelled, sacct shows a row without a task for some seconds: beside
    rows of tasks, one of a whole job says nothing.
    """
    groups: dict[int, list[JobRecord]] = {}
    for record in records:
        groups.setdefault(record.submitted_id, []).append(record)
    return {job_id: _in_order(group) for job_id, group in groups.items()}


def _in_order(group: list[JobRecord]) -> list[JobRecord]:
    tasks = {record.task_id: record for record in group if record.task_id is not None}
    return [tasks[task] for task in sorted(tasks)] or group
