"""How long an array will need, by what this run's shards, or earlier runs like it, took."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

from evalhpc.core.estimate import counted, duration, unbounded
from evalhpc.core.expectation import TAKEN, median_of, profile
from evalhpc.core.rendering import job_size
from evalhpc.core.walltime import Pace, fitted, walltime_seconds
from evalhpc.storage.round_view import worker_stats
from evalhpc.workflow.record.history import read_history
from evalhpc.workflow.record.jobs import recorded_jobs, was_fitted
from evalhpc.workflow.record.outcomes import another_pass_expected
from evalhpc.workflow.record.rounds import asks_anew, load_plan, planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.watch.listing import ROOT_VARIABLE, expanded


@dataclass(frozen=True)
class Prediction:
    """A walltime for the tasks of an array, and where it comes from."""

    walltime: str  # as sbatch --time takes it
    why: str


class _Measured(NamedTuple):
    """What the shards of a round took, in seconds."""

    load: float  # of the slowest, for its model
    each: float  # of a shard for one request; 0 where none was asked


def predict(run: Run, round_: int, at_once: int) -> Prediction | None:
    """The walltime for an array of which so many tasks run at a time; None for the site's.

    That is where nothing was measured, where the shards stay for rounds that nobody can foresee,
    and where a fitted walltime was too short before.
    """
    size = job_size(run.spec, "shard")
    limit = walltime_seconds(size.walltime)
    if not run.spec.run.fit_walltime or limit is None or unbounded(run.spec):
        return None
    measured = _of_this_run(run, round_) if planned_rounds(run) else _of_earlier_runs(run)
    if measured is None:
        return None
    pace, why = measured
    walltime = fitted(
        pace,
        at_once,
        request=run.spec.run.request_timeout,
        signal=run.spec.site.slurm.signal_seconds,
        limit=limit,
        least=(walltime_seconds(size.time_min) or 0) if size.time_min else 0,
    )
    return None if walltime is None else Prediction(walltime, why)


def _of_this_run(run: Run, round_: int) -> tuple[Pace, str] | None:
    if another_pass_expected(run, round_) or _was_too_short(run, round_):
        return None
    rounds = {r: _measured(run, r) for r in planned_rounds(run) if r < round_}
    # The newest one may have met a server that was still up, and the next may not.
    load = max((measured.load for measured in rounds.values()), default=0.0)
    for earlier, measured in sorted(rounds.items(), reverse=True):
        if measured.each:
            requests = load_plan(run, round_).requests
            why = (
                f"{counted(requests, 'request')} left, {measured.each:.2g} s of a shard each in "
                f"round {earlier}, load {duration(load)}"
            )
            return Pace(load, measured.each * requests), why
    return None


def _measured(run: Run, round_: int) -> _Measured:
    said = list(worker_stats(run.paths.round_leases(round_)).values())
    seconds = [dict(worker.get("seconds", {})) for worker in said]
    asked = sum(int(w.get("answered", 0)) + int(w.get("failed", 0)) for w in said)
    working = sum(float(spent.get("working", 0.0)) for spent in seconds)
    load = max((float(spent.get("starting", 0.0)) for spent in seconds), default=0.0)
    return _Measured(load, working / asked if asked else 0.0)


def _was_too_short(run: Run, round_: int) -> bool:
    """Whether the round before had a fitted walltime and left requests unanswered."""
    return was_fitted(run.paths, round_ - 1) and not asks_anew(run, round_)


def _of_earlier_runs(run: Run) -> tuple[Pace, str] | None:
    """What runs of the same suite and model took, all their rounds together.

    None where the array plans: cut short, it leaves no plan for a further round, and what follows
    one another in its turns takes no less with more shards.
    """
    if run.plans_inline:
        return None
    here = str(run.paths.root)
    root = expanded(os.environ.get(ROOT_VARIABLE) or run.spec.site.run_root)
    roots = (run.paths.root.parent, root)
    history = read_history(profile(run.spec, here), run.spec.site.name, roots)
    runs = history.same[:TAKEN]
    if not runs or recorded_jobs(run.paths):
        return None  # a first attempt that left no plan may have been too short itself
    past = median_of(runs)
    why = f"from {counted(len(runs), 'earlier run')} of this suite with this model"
    return Pace(past.load + past.idle_each, past.work), why
