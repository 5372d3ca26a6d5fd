"""Starting the jobs of a run: three sbatch calls, or one local driver."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from evalhpc.containers import preflight
from evalhpc.core.estimate import Ask, ask
from evalhpc.core.rendering import batch_job, batch_kinds
from evalhpc.errors import UsageError
from evalhpc.slurm.arrays import format_tasks
from evalhpc.slurm.chain import Step, submit_chain
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import Dependency, TestOnly
from evalhpc.storage.atomic import is_there
from evalhpc.workflow.faults.excluded_nodes import excluding
from evalhpc.workflow.record.image_use import refuse_changed
from evalhpc.workflow.record.jobs import Job, record_job, recorded_jobs
from evalhpc.workflow.record.rounds import load_plan
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.tokens import drop_token, make_token, token_name
from evalhpc.workflow.serve.shared import call_answered, forget
from evalhpc.workflow.submit.budget import refuse_above_budget
from evalhpc.workflow.submit.limits import (
    Bounds,
    in_arrays,
    read_bounds,
    refuse_long,
    running,
    tasks_of,
    within,
)
from evalhpc.workflow.submit.local import start_driver
from evalhpc.workflow.submit.walltime import predict

log = logging.getLogger(__name__)

#: What a deployment job is in that was submitted, or requeued, and has yet to load its model.
_TO_BEGIN = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"})

Tested = Callable[[str, TestOnly], None]


def slurm_here() -> Slurm:
    """The cluster whose commands are on PATH; raises ClusterError when there are none."""
    slurm = Slurm(env=os.environ)
    slurm.available()
    return slurm


def end_unrecorded(run: Run, *, besides: int | None) -> None:
    """Cancel jobs that the run submitted and its record lacks: who submitted them was killed before
    it could write that down, and another submits them now. Those submitted by hand stay."""
    slurm = slurm_here()
    hidden = sorted({*unrecorded(run, slurm)} & slurm.submitted() - {besides})
    if hidden:
        log.warning("cancelled, as nobody wrote them down: %s", ", ".join(map(str, hidden)))
        slurm.cancel(hidden)


def unrecorded(run: Run, slurm: Slurm) -> dict[int, str]:
    """Jobs of the run in the queue that its own record lacks: submitted id → kind.

    They were submitted by hand, or nobody got to know that Slurm had taken them.
    """
    known = {job.id for job in recorded_jobs(run.paths) if job.scheduler == "slurm"}
    root = run.paths.root
    kinds = {batch_job(run.spec, str(root), kind).name: kind for kind in batch_kinds(run.spec)}
    found = slurm.jobs_in(root, kinds)
    return {job_id: kinds[name] for job_id, name in found.items() if job_id not in known}


def launch(run: Run, tested: Tested = lambda _kind, _answer: None) -> list[Job]:
    """Submit a run from its planning pass on; returns what was submitted.

    `tested(kind, answer)` gets to know when Slurm says that each job could start.
    """
    _check_images(run)
    if run.spec.site.scheduler == "local":
        refuse_above_budget(run, asked(run, first_steps(run)))
        start_driver(run, first="shard" if run.plans_inline else "planning")
        return recorded_jobs(run.paths)[-1:]
    return _submit(run, 1, first_steps(run), tested)


def first_steps(run: Run) -> list[Step]:
    """What `launch` submits, if the cluster has room for it: up to the collector of round 1."""
    if run.plans_inline:
        return _round_steps(run, 1, tasks=run.first_tasks)
    planning = Step("planning", run.paths.script("planning"), comment=_comment(run))
    return [planning, *_round_steps(run, 1, after=("planning",), tasks=run.spec.run.shards)]


def asked(run: Run, steps: Sequence[Step]) -> list[Ask]:
    """What the jobs of these steps hold of the cluster."""
    return [_asked(run, step) for step in steps]


def _asked(run: Run, step: Step) -> Ask:
    held = ask(run.spec, step.kind, tasks_of(run, step), str(run.paths.root))
    if not step.walltime:
        return held
    return held._replace(size=held.size.model_copy(update={"walltime": step.walltime}))


def timed(run: Run, round_: int, steps: Sequence[Step], bounds: Bounds | None = None) -> list[Step]:
    """The steps, with the shards asking for as much time as they will probably need."""
    made = []
    for step in steps:
        if step.kind == "shard":
            tasks = tasks_of(run, step)
            predicted = predict(run, round_, running(run, tasks, bounds))
            if predicted is not None:
                step = replace(step, walltime=predicted.walltime, why=predicted.why)
        made.append(step)
    return made


def _check_images(run: Run) -> None:
    """What would fail on every node, minutes later: images and mounts that are not there."""
    images = [harness.image for harness in run.spec.harnesses.values()]
    servers = [served.deployment.image for served in run.spec.served().values()]
    preflight.check_site(run.spec.site.container, [*servers, *images])
    refuse_changed(run.spec)


def launch_planning(run: Run, *, again: str) -> list[Job]:
    """Submit once more what a run begins with; `again` is why."""
    return _submit(run, 1, first_steps(run), again=again)


def launch_round(run: Run, round_: int, *, again: str = "") -> list[Job]:
    """Submit a planned round: its array, no larger than its units, and its collector."""
    tasks = min(run.spec.run.shards, len(load_plan(run, round_).units))
    return _submit(run, round_, _round_steps(run, round_, tasks=tasks), again=again)


def launch_collect(
    run: Run, round_: int, *, after: Sequence[int] = (), again: str = ""
) -> list[Job]:
    """Submit the collector of a round alone: every answer is there, or comes from jobs `after`
    whose end it waits for."""
    collector = _collector(run, round_, ())
    if after:
        waiting = str(Dependency(after_any=tuple(after)))
        collector = replace(collector, extra=(f"--dependency={waiting}",))
    return _submit(run, round_, [collector], again=again)


def _round_steps(run: Run, round_: int, *, after: tuple[str, ...] = (), tasks: int) -> list[Step]:
    deploy = _deployments(run, after)
    shards = Step(
        "shard",
        run.paths.script("shard"),
        (str(round_),),
        array=format_tasks(range(tasks), run.spec.site.slurm.array_throttle),
        after_ok=after,
        after_begin=tuple(step.kind for step in deploy),
        comment=_comment(run),
        extra=excluding(run),
    )
    return [*deploy, shards, _collector(run, round_, ("shard",))]


def _deployments(run: Run, after: tuple[str, ...]) -> list[Step]:
    """The jobs that hold the model for all shards, unless some do, and stay, or are to begin."""
    if not run.spec.shares_deployment or _still_there(run):
        return []
    script = run.paths.script("deploy")
    return [Step("deploy", script, after_ok=after, comment=_comment(run))]


def _still_there(run: Run) -> bool:
    ids = [job.id for job in recorded_jobs(run.paths) if job.kind == "deploy"]
    if not ids or not token_name(run):
        return False
    tasks = [task for known in slurm_here().jobs(ids).values() for task in known]
    if any(task.state in _TO_BEGIN for task in tasks):
        return True
    # One that runs may be about to leave: only its own word counts.
    return any(task.state == "RUNNING" for task in tasks) and call_answered(run)


def _collector(run: Run, round_: int, after: tuple[str, ...]) -> Step:
    return Step(
        "collect",
        run.paths.script("collect"),
        (str(round_),),
        after_any=after,
        comment=_comment(run),
    )


def _comment(run: Run) -> str:
    """What the scripts' headers say; given again, because the submission adds its token to it."""
    return run.spec.site.slurm.comment or run.spec.run_id


def _submit(
    run: Run,
    round_: int,
    wished: list[Step],
    tested: Tested = lambda _kind, _answer: None,
    again: str = "",
) -> list[Job]:
    def record(step: Step, job_id: int) -> None:
        round_of = 0 if step.kind == "planning" else round_
        record_job(
            run.paths, step.kind, job_id, round_of, "slurm",
            tasks=tasks_of(run, step), offset=step.first, walltime=step.walltime, why=step.why,
            again=again,
        )  # fmt: skip
        # `cancel` marks the run, then ends what is in the queue: this job may have come after.
        _refuse_cancelled(run)

    _refuse_cancelled(run)
    slurm = slurm_here()
    steps = fitted(run, round_, wished, slurm)
    refuse_above_budget(run, asked(run, steps))
    fresh = run.spec.shares_deployment and make_token(run)
    if any(step.kind == "deploy" for step in steps):
        for job in range(run.spec.site.deploy.jobs):
            forget(run, job)
    try:
        submit_chain(slurm, steps, record, tested)
    except BaseException:
        if fresh:
            drop_token(run)
        raise
    return recorded_jobs(run.paths)[-len(steps) :]


def _refuse_cancelled(run: Run) -> None:
    if is_there(run.paths.cancelled):
        raise UsageError(
            "the run was cancelled", hint=f"evalhpc resume {run.word} takes it up again"
        )


def fitted(run: Run, round_: int, wished: Sequence[Step], slurm: Slurm) -> list[Step]:
    """The steps as this cluster lets them in, now."""
    bounds = read_bounds(run, slurm)
    steps = timed(run, round_, within(run, wished, bounds), bounds)
    refuse_long(run, asked(run, steps), bounds)
    return in_arrays(run, steps, bounds)
