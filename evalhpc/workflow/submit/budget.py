"""`run.max_gpu_hours`: what a run's jobs have used, and whether more may be submitted."""

from __future__ import annotations

import os
from collections.abc import Sequence

from evalhpc.core.estimate import Ask, JobCost, ask, price, refuse_above, total, unbounded
from evalhpc.errors import ClusterError
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import JobRecord
from evalhpc.workflow.record.jobs import Job, recorded_jobs
from evalhpc.workflow.record.run import Run

#: Slurm is asked so often what earlier jobs took; else they count in full.
_ATTEMPTS = 3


def budget_of(run: Run) -> float | None:
    """GPU-hours that the run may use: as it was last resumed with, else as it was submitted."""
    given = [job.max_gpu_hours for job in recorded_jobs(run.paths) if job.kind == "resume"]
    raised = [budget for budget in given if budget is not None]
    return raised[-1] if raised else run.spec.run.max_gpu_hours


def refuse_above_budget(run: Run, asks: Sequence[Ask], slurm: Slurm | None = None) -> None:
    """Raise BudgetError where the run's jobs so far and these may use more than its budget.

    Earlier jobs count in full, or, where that is too much, with what Slurm says they took.
    """
    budget = budget_of(run)
    if budget is None:
        return
    why = unbounded(run.spec)
    wanted = [price(asked, why) for asked in asks]
    jobs = [job for job in recorded_jobs(run.paths) if job.kind != "resume"]
    costs = [_cost(run, job) for job in jobs]
    used = total(cost.gpu_seconds for cost in costs)
    may = total((used, *(cost.gpu_seconds for cost in wanted)))
    if costs and used != 0 and (may is None or may > budget * 3600):
        used = total(_used(jobs, costs, slurm or Slurm(env=os.environ, attempts=_ATTEMPTS)))
    refuse_above(budget, used, wanted, why_unbounded=why)


def _cost(run: Run, job: Job) -> JobCost:
    """The most that a recorded job can have used."""
    kind = job.kind if job.scheduler == "slurm" else "shard"  # a driver starts the shards
    asked = ask(run.spec, kind, job.tasks, str(run.paths.root))
    if job.walltime:
        asked = asked._replace(size=asked.size.model_copy(update={"walltime": job.walltime}))
    return price(asked, unbounded(run.spec))


def _used(jobs: Sequence[Job], costs: Sequence[JobCost], slurm: Slurm) -> list[int | None]:
    """GPU-seconds of each job, as Slurm's records have them."""
    ids = [job.id for job, cost in zip(jobs, costs, strict=True) if cost.gpu_seconds != 0]
    try:
        found = slurm.jobs(ids)
    except ClusterError:
        found = {}  # they count in full, which can refuse too much, but never too little
    return [measured(cost, found.get(job.id, ())) for job, cost in zip(jobs, costs, strict=True)]


def measured(cost: JobCost, records: Sequence[JobRecord]) -> int | None:
    """GPU-seconds of an array or job: tasks that ended with their time, all others in full.

    An attempt before a requeue left no time behind, and counts in full.
    """
    if cost.gpu_seconds is None or not cost.tasks:
        return cost.gpu_seconds
    full, gpus = cost.gpu_seconds // cost.tasks, cost.nodes * cost.gpus_per_node
    taken = [full * r.restarts + _seconds_of(r, full, gpus) for r in records[: cost.tasks]]
    return sum(taken) + full * (cost.tasks - len(taken))


def _seconds_of(record: JobRecord, full: int, gpus: int) -> int:
    ended = record.terminal and record.elapsed_seconds is not None
    return gpus * (record.elapsed_seconds or 0) if ended else full
