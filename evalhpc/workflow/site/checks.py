"""What a site file says, compared with what the cluster answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from evalhpc.core.walltime import walltime_seconds
from evalhpc.errors import EvalhpcError
from evalhpc.models.base import Frozen
from evalhpc.models.site import Site
from evalhpc.slurm.jobs import Limits, Partition, default_partition
from evalhpc.slurm.quotas import Quotas

#: Planning, a shard and a collector.
_LEAST_JOBS = 3

#: `gpu:8`, `gpu:h100:8`, `gpu:h100:8(S:0-1)`: what a node offers, as sinfo prints it.
_GPUS = re.compile(r"^gpu:(?:(?P<type>[^:()]+):)?(?P<count>\d+)(?:\(.*\))?$")


class Check(Frozen):
    """One thing that a site needs, what was found of it, and what to do where that is wrong."""

    name: str
    ok: bool
    found: str
    hint: str = ""


def failed(name: str, error: EvalhpcError) -> Check:
    """The check that ended with this error."""
    return Check(name=name, ok=False, found=error.what, hint=error.hint)


def compare(
    site: Site, partitions: Sequence[Partition], limits: Limits, quotas: Quotas | None = None
) -> list[Check]:
    """Partitions, accounts, walltimes, GPUs and arrays of the site beside the cluster's.

    `quotas`: what the accounting allows the user, where it limits anything.
    """
    known = {partition.name: partition for partition in partitions}
    default = default_partition(partitions)
    wanted = {"partition": site.slurm.partition}
    if site.slurm.cpu_partition is not None:
        wanted["cpu_partition"] = site.slurm.cpu_partition
    checks = [_partition(key, name, known, default) for key, name in wanted.items()]
    main = default if site.slurm.partition is None else known.get(site.slurm.partition)
    passes = known.get(site.slurm.cpu_partition) if site.slurm.cpu_partition else main
    if main is not None:
        checks += [*_account(site, main), *_gpus(site, main)]
    checks += _walltimes(site, main, passes)
    if quotas is not None:
        checks += _allowed(site, quotas)
    return [*checks, _array(site, limits)]


def _partition(
    key: str, name: str | None, known: dict[str, Partition], default: Partition | None
) -> Check:
    chosen = default if name is None else known.get(name)
    if chosen is None:
        near = get_close_matches(name or "", known, n=1)
        found = "none named, and the cluster has no default" if name is None else f"no {name!r}"
        return Check(
            name=key, ok=False, found=f"{found}; there are {', '.join(sorted(known)) or 'none'}",
            hint=f"--set slurm.{key}={near[0] if near else 'NAME'}",
        )  # fmt: skip
    up = chosen.state == "UP"
    hint = "" if up else f"jobs wait until {chosen.name} is up again: sinfo -p {chosen.name}"
    return Check(name=key, ok=up, found=chosen.summary(), hint=hint)


def _account(site: Site, partition: Partition) -> Iterator[Check]:
    """Whether the partition is for some accounts only, and this is one of them."""
    if partition.allow_accounts in ("ALL", "(null)", ""):
        return
    allowed = partition.allow_accounts.split(",")
    yield Check(
        name="account",
        ok=site.slurm.account in allowed,
        found=f"{site.slurm.account or 'none'}; {partition.name} takes {', '.join(allowed)}",
        hint="" if site.slurm.account in allowed else f"--set slurm.account={allowed[0]}",
    )


def _gpus(site: Site, partition: Partition) -> Iterator[Check]:
    wanted, how = site.resources.shard.gpus_per_node, site.slurm.gpu_request
    if not wanted:
        return
    offered = _offered(partition.gres, site.slurm.gpu_type)
    kind = f"{site.slurm.gpu_type} GPUs" if site.slurm.gpu_type else "GPUs"
    found = f"{wanted} {kind} a node wanted; nodes of {partition.name} offer {offered or 'none'}"
    hint = ""
    if how == "none" and not offered:
        found = f"{wanted} a node, which a job with the whole node has without asking"
    elif not offered:
        hint = f"sinfo -p {partition.name} -o %G; where GPUs come with the node: gpu_request: none"
    elif offered < wanted:
        hint = f"--set resources.shard.gpus_per_node={offered}"
    yield Check(name="GPUs", ok=not hint, found=found, hint=hint)


def _offered(gres: Iterable[str], kind: str | None) -> int:
    """GPUs of the largest node, of that type if one is given; several types of a node add up."""
    counts = [0]
    for node in gres:
        found = [match for item in re.split(r",(?![^(]*\))", node) if (match := _GPUS.match(item))]
        counts.append(sum(int(m["count"]) for m in found if kind in (None, m["type"])))
    return max(counts)


def _walltimes(site: Site, main: Partition | None, passes: Partition | None) -> Iterator[Check]:
    jobs = {
        "planning": (site.resources.planning, passes),
        "shard": (site.resources.shard, main),
        "collect": (site.resources.collect, passes),
    }
    for name, (job, partition) in jobs.items():
        limit = partition.max_seconds if partition is not None else None
        asked = walltime_seconds(job.walltime)
        if partition is None or limit is None or (asked is not None and asked <= limit):
            continue
        yield Check(
            name="walltime", ok=False,
            found=f"{name} asks for {job.walltime}; {partition.name} ends at {limit // 60} minutes",
            hint=f"--set resources.{name}.walltime={limit // 60}",
        )  # fmt: skip


def _allowed(site: Site, quotas: Quotas) -> Iterator[Check]:
    """What of the queue the account leaves to a run, and how long its jobs may be."""
    slurm = site.slurm
    passes = slurm.cpu_partition or slurm.partition
    for name, partition in (("planning", passes), ("shard", slurm.partition), ("collect", passes)):
        longest = quotas.longest(slurm.account, partition or "", slurm.qos)
        asked = walltime_seconds(getattr(site.resources, name).walltime)
        if longest is not None and (asked is None or asked > longest[1]):
            minutes = max(1, longest[1] // 60)
            yield Check(
                name="walltime", ok=False,
                found=f"{name} asks for {getattr(site.resources, name).walltime}; "
                f"{longest[0]} is {minutes} minutes",
                hint=f"--set resources.{name}.walltime={minutes}",
            )  # fmt: skip
    pools = quotas.pools(slurm.account, slurm.partition or "", slurm.qos)
    pool = min(pools, key=lambda pool: pool.limit - pool.queued, default=None)
    if pool is not None:
        room = pool.limit - pool.queued
        yield Check(
            name="jobs",
            ok=room >= _LEAST_JOBS,
            found=f"{pool.label} is {pool.limit}; {pool.queued} are in the queue",
            hint="" if room >= _LEAST_JOBS else "squeue --me: a run needs three places at least",
        )


def _array(site: Site, limits: Limits) -> Check:
    size, allowed = site.slurm.max_array_size, limits.max_array_tasks
    return Check(
        name="arrays",
        ok=size <= allowed,
        found=f"{size} tasks at most; the cluster allows {allowed}",
        hint="" if size <= allowed else f"slurm.max_array_size: {allowed}",
    )
