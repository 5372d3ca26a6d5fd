"""The estimate before a submission: at most, expected, and what the queue says."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from evalhpc.config.template_files import load_sources
from evalhpc.core.estimate import JobCost, duration, price, refuse_above, total, unbounded
from evalhpc.core.expectation import Expected, default, expect, profile
from evalhpc.core.extra_options import takes_whole_nodes
from evalhpc.core.rendering import render_run
from evalhpc.errors import ClusterError
from evalhpc.models.base import Frozen
from evalhpc.paths import RunPaths
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import TestOnly
from evalhpc.storage.atomic import write_text
from evalhpc.workflow.record.history import read_history
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit.launch import asked, first_steps, fitted, timed
from evalhpc.workflow.submit.prepare import planned_dir, resolve_wish
from evalhpc.workflow.submit.wish import Wish
from evalhpc.workflow.watch.listing import ROOT_VARIABLE, expanded

#: A start so far ahead is Slurm's way to say that it cannot tell.
_NEVER = 365 * 86400.0
#: How often Slurm is asked for a start: an estimate can do without.
_ATTEMPTS = 2
_NAMED = 3


class Start(Frozen):
    """When the first task of a kind of job could start; `at` in local time, None: unknown."""

    kind: str
    at: str | None
    text: str


class Estimate(Frozen):
    """`evalhpc estimate --json`; hours are of the first round, None where nothing bounds them."""

    jobs: tuple[JobCost, ...]
    gpu_hours_at_most: float | None
    cpu_hours_at_most: float | None
    unbounded: str  # why, where there is no bound
    max_rounds: int
    max_gpu_hours: float | None  # the budget
    expected: Expected
    queue: tuple[Start, ...] = ()
    notes: tuple[str, ...] = ()


def estimate(run: Run, environ: Mapping[str, str]) -> Estimate:
    """What the run may cost and will probably take, without a question to Slurm."""
    spec = run.spec
    why = unbounded(spec)
    jobs = [price(one, why) for one in asked(run, timed(run, 1, first_steps(run)))]
    root = expanded(environ.get(ROOT_VARIABLE) or spec.site.run_root)
    wanted = profile(spec, str(run.paths.root))
    history = read_history(wanted, spec.site.name, (run.paths.root.parent, root))
    expected = expect(history.same, history.similar, jobs, spec.site.slurm.array_throttle)
    return Estimate(
        jobs=tuple(jobs),
        gpu_hours_at_most=_hours(total(job.gpu_seconds for job in jobs)),
        cpu_hours_at_most=_hours(total(job.cpu_seconds for job in jobs)),
        unbounded=why,
        max_rounds=spec.run.max_rounds,
        max_gpu_hours=spec.run.max_gpu_hours,
        expected=expected or default(jobs),
        notes=tuple(_notes(run, jobs, history.unread)),
    )


@dataclass(frozen=True)
class Wished:
    """The estimate of a submission that is not made."""

    estimate: Estimate
    warnings: tuple[str, ...]  # of the checkpoint
    refusal: ClusterError | None  # Slurm would not take the jobs

    def refuse(self) -> None:
        """Raise ClusterError or BudgetError, as the submission would."""
        budget = self.estimate.max_gpu_hours
        if budget is not None:
            why = self.estimate.unbounded
            refuse_above(budget, 0, self.estimate.jobs, why_unbounded=why)
        if self.refusal is not None:
            raise self.refusal


def estimate_wish(wish: Wish, environ: Mapping[str, str]) -> Wished:
    """The estimate with what the queue says; no run directory is made."""
    spec, warnings = resolve_wish(wish, environ)
    run = Run(RunPaths(planned_dir(wish, spec, environ)), spec, spec.digest())
    found = estimate(run, environ)
    if spec.site.scheduler != "slurm":
        return Wished(found, warnings, None)
    try:
        return Wished(found.model_copy(update={"queue": ask_queue(run, environ)}), warnings, None)
    except ClusterError as error:
        if not error.transient:
            return Wished(found, warnings, error)
        note = f"the queue says nothing: {error.what}"
        return Wished(found.model_copy(update={"notes": (*found.notes, note)}), warnings, None)


def start(kind: str, answer: TestOnly, now: float | None = None) -> Start:
    """What `sbatch --test-only` said, in words."""
    if answer.start is None:
        return Start(kind=kind, at=None, text="Slurm takes it, and gives no start")
    ahead = answer.start - (time.time() if now is None else now)
    if ahead > _NEVER:
        return Start(kind=kind, at=None, text="Slurm cannot say: a limit holds it for now")
    at = datetime.fromtimestamp(answer.start).isoformat(sep=" ", timespec="minutes")
    return Start(kind=kind, at=at, text="at once" if ahead < 60 else f"{at}, in {duration(ahead)}")


def ask_queue(run: Run, environ: Mapping[str, str]) -> tuple[Start, ...]:
    """A start for each kind of job of a run that has no directory; raises ClusterError.

    The scripts that Slurm is asked about are in a temporary folder.
    """
    slurm = Slurm(env=environ, attempts=_ATTEMPTS)
    slurm.available()
    override = Path(run.spec.site.templates) if run.spec.site.templates else None
    scripts = render_run(run.spec, str(run.paths.root), load_sources(override))
    with tempfile.TemporaryDirectory(prefix="evalhpc-") as name:
        folder = Path(name)
        for script, text in scripts.items():
            write_text(folder / script, text, sync=False)
        return tuple(_starts(run, slurm, folder))


def _starts(run: Run, slurm: Slurm, folder: Path) -> list[Start]:
    found = []
    for step in fitted(run, 1, first_steps(run), slurm):
        if step.part:
            continue  # like the first of its kind
        there = replace(step, script=folder / step.script.name)
        answer = slurm.test_only(there.script, *there.args, array=there.array, extra=there.options)
        found.append(start(step.kind, answer))
    return found


def _notes(run: Run, jobs: Sequence[JobCost], unread: Sequence[str]) -> list[str]:
    notes = []
    slurm = run.spec.site.slurm
    if takes_whole_nodes(slurm) and slurm.gpu_request != "none":
        notes.append("jobs are exclusive: the site may charge for all GPUs and CPUs of each node")
    held = [job.kind for job in jobs if job.gpus_per_node and job.kind in ("planning", "collect")]
    if held:
        notes.append(
            f"{' and '.join(held)} hold GPUs that they do not use; see slurm.cpu_partition"
        )
    if unread:
        named = ", ".join(unread[:_NAMED]) + ("…" if len(unread) > _NAMED else "")
        notes.append(f"earlier runs that cannot be read are left out: {named}")
    return notes


def _hours(seconds: int | None) -> float | None:
    return None if seconds is None else seconds / 3600
