"""What a run will probably take, from earlier runs that were like it; and where that comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from evalhpc.core.estimate import JobCost, counted, duration, total
from evalhpc.core.rendering import Batch, batch_job, batch_kinds
from evalhpc.core.walltime import walltime_seconds
from evalhpc.models.base import Frozen
from evalhpc.models.runspec import RunSpec

#: So many of the newest runs that are alike are taken.
TAKEN = 5
#: Weights of models of about one size differ at most by this factor.
ALIKE = 1.5

#: Jobs without a model: their size changes little.
_PASSES = ("planning", "collect")

Source = Literal["same", "similar", "default"]
_ORIGIN = {
    "same": "of this suite with this model",
    "similar": "of this suite with a model of about this size",
}


@dataclass(frozen=True)
class Profile:
    """What of a run decides how long it takes, but for its shards."""

    model: str  # fingerprint, or where it is served
    model_bytes: int
    served: str  # how the model is served and asked, canonical
    questions: str  # benchmarks with limits and parameters, and how a pass goes, canonical


class Past(Frozen):
    """What a complete run took, in seconds."""

    run_id: str
    planning: float  # pass 0, where it is a job of its own
    collecting: float  # the later passes
    inside: float  # of pass 0 in the array, while all its tasks hold their nodes
    load: float  # of the models, for each shard
    work: float  # of all shards together
    idle_each: float  # of one shard, waiting for a further round: more shards make it no shorter


_MEASURED = ("planning", "collecting", "inside", "load", "work", "idle_each")


class Expected(Frozen):
    """An expectation: `seconds` without the queue; None where there is nothing to go by."""

    source: Source
    text: str  # where it comes from
    runs: tuple[str, ...] = ()  # ids of the earlier runs
    seconds: float | None
    gpu_hours: float | None
    cpu_hours: float | None
    shard_seconds: float | None = None
    load_seconds: float | None = None


def profile(spec: RunSpec, run_dir: str) -> Profile:
    """The profile of a run; image and template do not count, as they change with every release."""
    kinds = (kind for kind in batch_kinds(spec) if kind not in _PASSES)
    hardware = [_hardware(batch_job(spec, run_dir, kind)) for kind in kinds]
    deployment = spec.deployment.model_dump(mode="json", exclude={"image"})
    others = {name: served.model_dump(mode="json") for name, served in spec.endpoints.items()}
    asked = spec.run.model_dump(
        mode="json", include={"miss", "plan", "shard_by", "share_at_zero", "schedule"}
    )
    return Profile(
        model=spec.model.fingerprint or f"{spec.model.url}#{spec.model.model_id}",
        model_bytes=spec.model.bytes,
        served=_canonical([deployment, hardware, spec.run.concurrency]),
        questions=_canonical([[b.model_dump(mode="json") for b in spec.benchmarks], others, asked]),
    )


def _hardware(job: Batch) -> list[Any]:
    """What one job has, and how many there are where that is no question of shards."""
    size, array = job.size, None if job.kind == "shard" else job.array
    cpus = None if size.gpus_per_node else size.cpus
    return [job.kind, array, size.nodes, size.gpus_per_node, cpus]


def alike(wanted: Profile, past: Profile) -> Source | None:
    """`same` or `similar` where the past run says something of the wanted one."""
    if (past.questions, past.served) != (wanted.questions, wanted.served):
        return None
    if past.model == wanted.model:
        return "same"
    small, large = sorted((past.model_bytes, wanted.model_bytes))
    return "similar" if 0 < large <= small * ALIKE else None


def expect(
    same: Sequence[Past], similar: Sequence[Past], jobs: Sequence[JobCost], throttle: int | None
) -> Expected | None:
    """From the newest runs of the nearest kind, newest first; None without any.

    At most `throttle` shards run at a time: those that start later find little left to do.
    """
    source: Source = "same" if same else "similar"
    runs = (same or similar)[:TAKEN]
    if not runs:
        return None
    typical = median_of(runs)
    shards = sum(job.tasks for job in jobs if job.kind == "shard")
    at_once = max(1, min(shards, throttle or shards))
    array = typical.inside + typical.load + typical.work / at_once
    held = array + typical.idle_each
    lasts = {"planning": typical.planning, "collect": typical.collecting}
    gpu_seconds = cpu_seconds = 0.0
    for job in jobs:
        nodes = job.nodes * (at_once if job.kind == "shard" else job.tasks)
        gpu_seconds += lasts.get(job.kind, held) * nodes * job.gpus_per_node
        cpu_seconds += lasts.get(job.kind, held) * nodes * job.cpus
    return Expected(
        source=source,
        text=f"from {counted(len(runs), 'earlier run')} {_ORIGIN[source]}: "
        f"{duration(held)} per shard, load {duration(typical.load)}",
        runs=tuple(run.run_id for run in runs),
        seconds=typical.planning + array + typical.collecting,
        gpu_hours=gpu_seconds / 3600,
        cpu_hours=cpu_seconds / 3600,
        shard_seconds=held,
        load_seconds=typical.load,
    )


def median_of(runs: Sequence[Past]) -> Past:
    """The median of each time of these runs, of which there is at least one."""
    times = {name: median(getattr(run, name) for run in runs) for name in _MEASURED}
    return Past(run_id="", **times)


def default(jobs: Sequence[JobCost]) -> Expected:
    """Without history: one round, in which every job takes its walltime."""
    gpu_seconds, cpu_seconds = (
        total(getattr(job, name) for job in jobs) for name in ("gpu_seconds", "cpu_seconds")
    )
    known = all(job.cpu_seconds is not None for job in jobs)
    assumed = (
        "; one round to its walltime is assumed, not measured"
        if known
        else ", and nothing bounds this one"
    )
    return Expected(
        source="default",
        text=f"no earlier run like it here{assumed}",
        seconds=total(_lasts(job) for job in jobs),
        gpu_hours=None if gpu_seconds is None else gpu_seconds / 3600,
        cpu_hours=None if cpu_seconds is None else cpu_seconds / 3600,
    )


def _lasts(job: JobCost) -> int | None:
    return None if job.cpu_seconds is None else walltime_seconds(job.walltime)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
