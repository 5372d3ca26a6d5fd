"""What the cluster lets a run submit at once: jobs in the queue, tasks of an array, walltime."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from evalhpc.core.estimate import Ask, duration
from evalhpc.core.extra_options import extra_options
from evalhpc.core.rendering import batch_job
from evalhpc.core.walltime import walltime_seconds
from evalhpc.errors import ClusterError, EvalhpcError
from evalhpc.slurm.arrays import format_tasks, parse_tasks
from evalhpc.slurm.chain import Step
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import Limits
from evalhpc.slurm.quotas import Pool, Quotas
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """The limits that hold for one submission; `quotas` is None where the accounting sets none."""

    array_tasks: int  # of one array
    quotas: Quotas | None = None


def read_bounds(run: Run, slurm: Slurm) -> Bounds:
    """Ask the cluster; raises ClusterError where the controller does not answer."""
    limits = slurm.limits()
    tasks = min(run.spec.site.slurm.max_array_size, limits.max_array_tasks)
    return Bounds(tasks, read_quotas(limits, slurm))


def read_quotas(limits: Limits, slurm: Slurm) -> Quotas | None:
    """What the accounting allows the user; None where it limits nothing, or does not say what."""
    if "limits" not in limits.enforced:
        return None
    try:
        return slurm.quotas(getpass.getuser(), limits.cluster)
    except (EvalhpcError, OSError, KeyError) as error:
        # sbatch enforces them all the same: what it refuses is undone.
        log.warning("note: the limits of your account are unknown: %s", error)
        return None


def tasks_of(run: Run, step: Step) -> int:
    """Jobs that a step submits; without an array of its own it is the one in the header."""
    array = step.array or batch_job(run.spec, str(run.paths.root), step.kind).array
    return 1 if array is None else len(parse_tasks(array))


def within(run: Run, steps: Sequence[Step], bounds: Bounds) -> list[Step]:
    """The steps with as many shards as the queue has room for; what was changed is logged.

    Fewer shards do the same work, as they lease it. Raises ClusterError where no shard fits, where
    each has a fixed slice (`run.schedule: static`), or where the jobs would wait for one another.
    """
    if bounds.quotas is not None:
        _refuse_waiting(run, steps, bounds.quotas)
    wanted = sum(tasks_of(run, step) for step in steps if step.kind == "shard")
    tightest = min(_rooms(run, steps, bounds.quotas), key=lambda found: found.room, default=None)
    if tightest is not None and tightest.room < wanted:
        room, pool, least = tightest
        reason = f"{pool.label} is {pool.limit}, {pool.queued} are in the queue"
        _refuse_static(run, reason, room, wanted)
        log.warning(
            "note: %d shards instead of %d, each with more of the work: %s is %d, %d in the "
            "queue, %d for the run's other jobs",
            room, wanted, pool.label, pool.limit, pool.queued, least,
        )  # fmt: skip
        wanted = room
    return _throttled(run, steps, wanted, bounds)


class _Room(NamedTuple):
    """Shards that one limit leaves, and how many of the run's other jobs it counts."""

    room: int
    pool: Pool
    others: int


def _rooms(run: Run, steps: Sequence[Step], quotas: Quotas | None) -> Iterator[_Room]:
    """For each limit that counts shards; ClusterError where one has no room for what must be."""
    if quotas is None:
        return
    pools = {step.kind: quotas.pools(*_place(run, step.kind)) for step in steps}
    for pool in dict.fromkeys(pool for found in pools.values() for pool in found):
        others = [s for s in steps if pool in pools[s.kind] and s.kind != "shard"]
        least = sum(tasks_of(run, step) for step in others)
        room = pool.limit - pool.queued - least
        asks = pool in pools.get("shard", ())
        if room < (1 if asks else 0):
            raise _full(run, pool, others, asks=asks)
        if asks:
            yield _Room(room, pool, least)


def _refuse_waiting(run: Run, steps: Sequence[Step], quotas: Quotas) -> None:
    """Raise ClusterError where fewer jobs may run at a time than a run needs to go on.

    Deployment jobs hold their places until the shards are done, which need one at least.
    """
    together: dict[tuple[str, int], list[str]] = {}
    for step in steps:
        for limit in quotas.at_once(*_place(run, step.kind)):
            together.setdefault(limit, []).append(step.kind)
    for (label, most), kinds in together.items():
        deployed = run.spec.site.deploy.jobs if "deploy" in kinds else 0
        needed = deployed + ("shard" in kinds) if deployed else 1
        if most < needed:
            jobs = f"{deployed} deploy + 1 shard" if needed > 1 else f"1 {kinds[0]}"
            raise ClusterError(
                f"{jobs} must run at a time, and {label} is {most}: not submitted",
                cause="Slurm would take the jobs and let them wait for one another"
                if most
                else "Slurm would take the jobs and let them wait for ever",
                hint="--set deploy.topology=shard, or another QOS: --set slurm.qos=NAME"
                if most
                else "another QOS or account: --set slurm.qos=NAME, --set slurm.account=NAME",
            )


def _throttled(run: Run, steps: Sequence[Step], wanted: int, bounds: Bounds) -> list[Step]:
    """No more arrays than tasks that may run at once: each array has a throttle of its own."""
    throttle = run.spec.site.slurm.array_throttle
    if throttle is not None and wanted > throttle * bounds.array_tasks:
        fits = throttle * bounds.array_tasks
        reason = f"slurm.array_throttle is {throttle}, an array has {bounds.array_tasks} tasks"
        _refuse_static(run, reason, fits, wanted)
        log.warning(
            "note: %d shards instead of %d: slurm.array_throttle is %d, and an array has at most "
            "%d tasks", fits, wanted, throttle, bounds.array_tasks,
        )  # fmt: skip
        wanted = fits
    return [
        replace(step, array=format_tasks(range(wanted), throttle)) if step.kind == "shard" else step
        for step in steps
    ]


def in_arrays(run: Run, steps: Sequence[Step], bounds: Bounds) -> list[Step]:
    """The steps with the shards in as many arrays as they need.

    Each later array gets the number of its first shard as the script's second argument.
    """
    made: list[Step] = []
    parts: dict[str, tuple[str, ...]] = {}
    for step in steps:
        chunks = _cut(run, step, bounds) if step.kind == "shard" else [step]
        parts[step.key] = tuple(chunk.key for chunk in chunks)
        made += [
            replace(chunk, after_any=tuple(k for key in chunk.after_any for k in parts[key]))
            for chunk in chunks
        ]
    return made


def _cut(run: Run, step: Step, bounds: Bounds) -> list[Step]:
    tasks, size = tasks_of(run, step), bounds.array_tasks
    if tasks <= size:
        return [step]
    starts = range(0, tasks, size)
    throttle = run.spec.site.slurm.array_throttle
    each = None if throttle is None else throttle // len(starts)
    spare = 0 if throttle is None else throttle % len(starts)
    return [
        replace(
            step,
            part=part,
            first=start,
            args=(*step.args, str(start)) if part else step.args,
            array=format_tasks(
                range(min(size, tasks - start)), None if each is None else each + (part < spare)
            ),
        )
        for part, start in enumerate(starts)
    ]


def running(run: Run, tasks: int, bounds: Bounds | None = None) -> int:
    """How many of so many shards will run at a time, at most; each then has more of the work."""
    most = [tasks, run.spec.site.slurm.array_throttle or tasks]
    if bounds is not None and bounds.quotas is not None:
        beside = (
            set(bounds.quotas.at_once(*_place(run, "deploy")))
            if run.spec.shares_deployment
            else set()
        )
        for limit in bounds.quotas.at_once(*_place(run, "shard")):
            most.append(limit[1] - (run.spec.site.deploy.jobs if limit in beside else 0))
    return max(1, min(most))


def refuse_long(run: Run, asks: Sequence[Ask], bounds: Bounds) -> None:
    """Raise ClusterError for a walltime that an account or QOS does not allow.

    Slurm takes such a job, unless the QOS says otherwise, and lets it wait for ever.
    """
    for asked in asks:
        place = _place(run, asked.kind)
        longest = bounds.quotas and bounds.quotas.longest(*place)
        if not longest:
            continue
        label, limit = longest
        wanted = walltime_seconds(asked.size.walltime)
        if wanted is None or wanted > limit:
            section = "shard" if asked.kind == "deploy" else asked.kind
            raise ClusterError(
                f"the {asked.kind} job asks for {asked.size.walltime}, and {label} is "
                f"{duration(limit)}: not submitted",
                cause="Slurm would take the job and let it wait for ever",
                hint=f"--set resources.{section}.walltime={max(1, limit // 60)}, or another QOS: "
                "--set slurm.qos=NAME",
            )


def _place(run: Run, kind: str) -> tuple[str | None, str, str | None]:
    """(account, partition, QOS) of a job; "" is the cluster's default partition."""
    slurm = run.spec.site.slurm
    partition = batch_job(run.spec, str(run.paths.root), kind).partition
    own = extra_options(slurm)
    partition = own.get("partition") or partition or ""
    # Of several partitions the job may start in any: the first one speaks for all.
    first = partition.partition(",")[0]
    return own.get("account") or slurm.account, first, own.get("qos") or slurm.qos


def _refuse_static(run: Run, reason: str, room: int, wanted: int) -> None:
    if run.spec.run.schedule != "static":
        return
    raise ClusterError(
        f"{wanted} shards do not fit into the queue: {reason}, so that {room} fit: not submitted",
        cause="run.schedule is static: each shard has a slice that no other takes over",
        hint=f"--shards {room}, or --schedule dynamic, where fewer shards do the same work",
    )


def _full(run: Run, pool: Pool, others: Sequence[Step], *, asks: bool) -> ClusterError:
    needs = [(step.kind, tasks_of(run, step)) for step in others]
    if asks:
        needs.append(("shard", 1))
    parts = " + ".join(f"{count} {kind}" for kind, count in needs)
    least = sum(count for _, count in needs)
    return ClusterError(
        f"the run needs {parts} = {least} jobs at least, and {max(0, pool.limit - pool.queued)} "
        f"fit into the queue ({pool.label} is {pool.limit}, {pool.queued} are there): "
        "not submitted",
        cause="each task of an array counts as a job until it ends",
        hint=f"{_listing(pool)}; once some have ended: the same command again, or "
        "evalhpc resume RUN",
    )


def _listing(pool: Pool) -> str:
    """The command that shows what counts: others' jobs too, where they share the limit."""
    shared = pool.label.startswith("Grp") or "PerAccount" in pool.label
    return "squeue --all, as others' jobs count too" if shared else "squeue --me"
