"""What runs inside the jobs: one function a batch script, returning its exit code."""

from __future__ import annotations

import sys
from pathlib import Path

from evalhpc.errors import BudgetError, EvalhpcError, IncompleteError
from evalhpc.workflow.collect.collect import alone, collect, note_failure, plan_first
from evalhpc.workflow.faults.early_stop import (
    answering_round,
    calling_off,
    refuse_restarts,
    restarts_here,
)
from evalhpc.workflow.record.run import Run, open_run
from evalhpc.workflow.record.signals import INTERRUPTED, Interrupted
from evalhpc.workflow.record.tokens import drop_token
from evalhpc.workflow.serve.deployment import run_deployment
from evalhpc.workflow.serve.herald import is_over
from evalhpc.workflow.serve.replica import Replicas
from evalhpc.workflow.shard.shard import run_shard
from evalhpc.workflow.submit.launch import launch_round


def planning(root: Path) -> int:
    """Pass 0 and the first plan."""
    run = open_run(root)
    try:
        refuse_restarts(run, restarts_here())
        with Replicas(run, 0, 0) as replicas:
            planned = plan_first(run, replicas)
    except EvalhpcError as error:
        note_failure(run, error)
        return _failed(error)
    except Interrupted:
        return INTERRUPTED
    except Exception as error:
        what = f"the planning job failed: {error!r}"
        note_failure(run, EvalhpcError(what, cause="a bug of evalhpc"))
        raise
    print(f"planned {planned.requests} requests for round 1")
    return 0


def answering(root: Path, round_: int, shard: int) -> int:
    """One shard."""
    try:
        run = open_run(root)
        with calling_off(run, answering_round(run, round_)):
            counts = run_shard(run, round_, shard)
    except EvalhpcError as error:
        return _failed(error)
    except Interrupted:
        return INTERRUPTED
    print(f"answered {counts.answered} requests in {counts.units} units")
    return 0


def deploying(root: Path, job: int) -> int:
    """A deployment job."""
    try:
        run = open_run(root)
        refuse_restarts(run, restarts_here())
        run_deployment(run, job)
    except EvalhpcError as error:
        return _failed(error)
    except Interrupted:
        return INTERRUPTED
    return 0


def collecting(root: Path, round_: int) -> int:
    """The collector; on Slurm it submits the next round itself, where the site allows that."""
    run = open_run(root)
    try:
        _refuse_restarts(run)
        with alone(run) as still_sole:
            collected = collect(run, round_)
            if collected.state == "more":
                print(f"round {collected.round} has {collected.requests} requests")
                still_sole()
                _go_on(run, collected.round)
    except EvalhpcError as error:
        return _failed(error)
    except Interrupted:
        return INTERRUPTED
    finally:
        if is_over(run):
            drop_token(run)
    return 0


def _refuse_restarts(run: Run) -> None:
    try:
        refuse_restarts(run, restarts_here())
    except EvalhpcError as error:
        note_failure(run, error)
        raise


def _go_on(run: Run, round_: int) -> None:
    if run.spec.site.scheduler != "slurm":
        return  # the local driver sees the new plan and goes on
    if run.spec.site.resubmit:
        try:
            _launch_within_budget(run, round_)
        except EvalhpcError as error:
            note_failure(run, error)
            raise
    else:
        print(f"this site's jobs may not submit; next: evalhpc resume {run.word}")


def _launch_within_budget(run: Run, round_: int) -> None:
    try:
        launch_round(run, round_)
    except BudgetError as error:
        raise IncompleteError(
            f"round {round_} is planned and there is no score yet: {error.what}",
            cause="run.max_gpu_hours is used up, as far as the next array could need it",
            hint=f"evalhpc resume {run.word} --max-gpu-hours H",
        ) from error


def _failed(error: EvalhpcError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code
