"""What a run may cost: jobs × nodes × GPUs × walltime, exact, with the arithmetic in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from evalhpc.core.extra_options import extra_options
from evalhpc.core.rendering import batch_job, batch_kinds
from evalhpc.core.walltime import walltime_seconds
from evalhpc.errors import BudgetError
from evalhpc.models.base import Frozen
from evalhpc.models.runspec import RunSpec
from evalhpc.models.site import JobSize

#: Options that a site may add to every job and that replace what the arithmetic rests on.
_REPLACING = re.compile(r"time|nodes|array|gres|gpus|gpus-per-\w+|tres-per-\w+|ntasks[a-z-]*")
_HOUR = 3600


class Ask(NamedTuple):
    """Jobs of one kind that are submitted together; `size.gpus_per_node` are those they hold."""

    kind: str
    size: JobSize
    tasks: int


class JobCost(Frozen):
    """The most that jobs of one kind can use; None where nothing bounds it."""

    kind: str
    tasks: int
    nodes: int  # of each task
    gpus_per_node: int
    cpus: int  # of a node
    walltime: str
    gpu_seconds: int | None
    cpu_seconds: int | None

    @property
    def sum(self) -> str:
        """Like `shard: 8 tasks × 2 nodes × 8 GPUs × 4:00:00 = 512 GPU-hours`."""
        kind, count = ("GPU", self.gpus_per_node) if self.gpus_per_node else ("CPU", self.cpus)
        seconds = self.gpu_seconds if self.gpus_per_node else self.cpu_seconds
        parts = (
            counted(self.tasks, "task"),
            counted(self.nodes, "node") if self.nodes > 1 else "",
            counted(count, kind),
            self.walltime,
        )
        total = "no bound" if seconds is None else f"{hours(seconds)} {kind}-hours"
        return f"{self.kind}: {' × '.join(filter(None, parts))} = {total}"


def ask(spec: RunSpec, kind: str, tasks: int, run_dir: str) -> Ask:
    """What `tasks` jobs of one kind hold of the cluster.

    Where GPUs come with the node (`slurm.gpu_request: none`), every job in the partition of the
    model's jobs holds them, used or not.
    """
    job = batch_job(spec, run_dir, kind)
    size = job.size
    if spec.site.slurm.gpu_request == "none":
        beside = (batch_job(spec, run_dir, other) for other in batch_kinds(spec))
        held = max(b.size.gpus_per_node for b in beside if b.partition == job.partition)
        size = size.model_copy(update={"gpus_per_node": max(held, size.gpus_per_node)})
    return Ask(kind, size, tasks)


def price(asked: Ask, unbounded: str = "") -> JobCost:
    """The most that these jobs can use, if Slurm starts none of them a second time.

    `unbounded` says why their walltime or size is not what `asked` has; "" where it is.
    """
    size, limit = asked.size, walltime_seconds(asked.size.walltime)
    seconds = None if unbounded or limit is None else asked.tasks * size.nodes * limit
    # Without GPUs no time makes GPU-hours; but an option of the site may have asked for some.
    without = size.gpus_per_node == 0 and not unbounded.startswith("slurm.extra")
    gpu_seconds = None if seconds is None else seconds * size.gpus_per_node
    return JobCost(
        kind=asked.kind,
        tasks=asked.tasks,
        nodes=size.nodes,
        gpus_per_node=size.gpus_per_node,
        cpus=size.cpus,
        walltime=size.walltime,
        gpu_seconds=0 if without else gpu_seconds,
        cpu_seconds=None if seconds is None else seconds * size.cpus,
    )


def unbounded(spec: RunSpec) -> str:
    """Why nobody can say what a job of this run costs at most; "" where the arithmetic holds."""
    if spec.site.scheduler == "local":
        return "a local run has no walltime"
    options = extra_options(spec.site.slurm).items()
    replacing = [f"--{name}={value}" for name, value in options if _REPLACING.fullmatch(name)]
    if replacing:
        return f"slurm.extra has {' '.join(replacing)}, which counts instead of `resources`"
    return ""


def total(seconds: Iterable[int | None]) -> int | None:
    """The sum; None as soon as one of them has no bound."""
    known = list(seconds)
    return None if None in known else sum(filter(None, known))


def refuse_above(
    budget: float, used: int | None, jobs: Sequence[JobCost], *, why_unbounded: str = ""
) -> None:
    """Raise BudgetError where `used` GPU-seconds and what the jobs may use exceed the budget.

    `budget` in GPU-hours. What has no bound exceeds every budget.
    """
    wanted = total(job.gpu_seconds for job in jobs)
    if used is not None and wanted is not None and used + wanted <= budget * _HOUR:
        return
    costly = [job for job in jobs if job.gpu_seconds is None or job.gpu_seconds > 0]
    lines = [f"  {job.sum}" for job in costly]
    if used != 0:
        before = "no bound" if used is None else f"at most {hours(used)} GPU-hours"
        lines.insert(0, f"  used before: {before}")
    both = None if used is None or wanted is None else used + wanted
    may = "any number of GPU-hours" if both is None else f"{hours(both)} GPU-hours"
    raise BudgetError(
        "\n".join((f"the run may use {may}, and its budget is {budget:g}: not submitted", *lines)),
        cause=why_unbounded
        or ("a walltime of 0 is no limit" if both is None else "run.max_gpu_hours is the budget"),
        hint=_advice(budget, used, costly),
    )


def _advice(budget: float, used: int | None, costly: Sequence[JobCost]) -> str:
    """What to lower, with the number of shards that would fit."""
    shard = next((job for job in costly if job.kind == "shard" and job.gpu_seconds), None)
    if used is None or any(job.gpu_seconds is None for job in costly):
        return "give the jobs a walltime and a size under `resources`, or submit without a budget"
    raised = "raise --max-gpu-hours"
    if shard is None:
        return f"lower the walltimes under `resources`, or {raised}"
    others = total(job.gpu_seconds for job in costly if job is not shard)
    left = budget * _HOUR - used - (others or 0)
    fits = int(left * shard.tasks // (shard.gpu_seconds or 1))
    fewer = f"--shards {fits} would fit; or " if 0 < fits < shard.tasks and not used else ""
    return f"{fewer}lower resources.shard.walltime (now {shard.walltime}), or {raised}"


def hours(seconds: float) -> str:
    """Hours in as many digits as a reader needs: `512`, `9.6`, `0.03`."""
    value = seconds / _HOUR
    if 0 < value < 0.01:
        return "less than 0.01"
    return f"{value:.{1 if value >= 10 else 2}f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """A time for people: `45 s`, `14 min`, `3.2 h`, `2.5 days`."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * _HOUR:
        return f"{hours(seconds)} h"
    return f"{seconds / 24 / _HOUR:.1f} days"


def counted(count: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
