"""A fault that every shard meets: the shards that follow do not begin, those that wait are called
off."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from evalhpc.core.common_fault import CommonFault, Death, common_fault
from evalhpc.core.frames import FILE_HEADER_BYTES
from evalhpc.errors import EvalhpcError, FutileError, StorageError
from evalhpc.slurm.gate import Slurm
from evalhpc.storage.atomic import read_jsonl, storage_errors
from evalhpc.storage.round_view import worker_stats
from evalhpc.workflow.faults.shard_failures import failure_files
from evalhpc.workflow.record.jobs import recorded_jobs, resumes
from evalhpc.workflow.record.rounds import load_plan, planned_rounds
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)

#: What a shard is in, or has been, whose servers have proved themselves.
_READY = frozenset({"working", "waiting", "passing"})
#: Times that Slurm may start a job again: after preemption, or a node that failed.
RESTARTS = 20
#: Starts of a shard in a row, all of them cut off before the first answer.
FRUITLESS = 5


def fatal_records(run: Run, round_: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(shard, record) of every early end in a round since the run was last resumed."""
    now = resumes(run.paths)
    for attempt, path in failure_files(run, round_):
        for record in read_jsonl(path):
            if record.get("resumes", 0) == now and ("fatal" in record or "lost" in record):
                yield attempt.shard, record


def fault_of_round(
    run: Run, round_: int, besides: int | None = None, *, lasting: bool = False
) -> CommonFault | None:
    """What ended the shards of a round, all of them that have tried; None where one is ready.

    `besides`: a shard whose own ends do not count. `lasting`: nor do those of a kind that may be
    over when the next shard begins.
    """
    deaths = [
        Death(shard, record.get("node", ""), record["exit_code"], record["fatal"],
              record.get("cause", ""), record.get("hint", ""))
        for shard, record in fatal_records(run, round_)
        if "fatal" in record and not record.get("answered") and shard != besides
        and not (lasting and _may_pass(run, record))
    ]  # fmt: skip
    if not deaths or _any_answer(run, round_):
        return None
    failed = {f"{death.shard:05d}" for death in deaths}
    others = [
        stats
        for name, stats in _said(run, round_).items()
        if name not in failed or stats.get("state", "ended") != "ended"
    ]
    if any(_READY & stats.get("seconds", {}).keys() for stats in others):
        return None
    nodes = {str(stats["node"]) for stats in others if "node" in stats}
    return common_fault(deaths, shards=_shards(run, round_), other_nodes=nodes)


def refuse_futile(run: Run, round_: int, shard: int) -> None:
    """Before a shard begins: raises FutileError where it would fail as all before it did.

    One that failed itself is judged by the others: a user may want to watch it fail.
    """
    fault = fault_of_round(run, round_, besides=shard, lasting=True)
    if fault is None:
        return
    raise FutileError(
        f"not begun: {fault} in round {round_}: {fault.death.what.partition(chr(10))[0]}",
        cause=fault.death.cause or "the same in every shard",
        hint=f"put it right (evalhpc explain {run.word}), then: evalhpc resume {run.word}",
    )


@contextmanager
def calling_off(run: Run, round_: int) -> Iterator[None]:
    """A shard at work: if it fails, as all have done, what waits of its round is cancelled."""
    try:
        yield
    except EvalhpcError:
        try:
            _call_off(run, round_)
        except EvalhpcError as further:
            log.warning("the tasks that wait were not cancelled: %s", further.what)
        raise


def _call_off(run: Run, round_: int) -> None:
    fault = fault_of_round(run, round_, lasting=True)
    if fault is None or not _first_to_say(run, round_, fault):
        return
    log.error("%s: the other shards of round %d are called off", fault, round_)
    arrays = [job.id for job in recorded_jobs(run.paths) if job.kind == "shard"]
    if run.spec.site.scheduler != "slurm" or not run.spec.site.resubmit:
        return  # those that wait find out by themselves, each as it starts
    Slurm(env=os.environ).cancel(arrays, only_pending=True)


def refuse_endless(run: Run, round_: int, shard: int, restarts: int) -> None:
    """Raises FutileError for a task that Slurm has started too often, or always in vain.

    `restarts` is Slurm's count; what a user starts by hand is not limited.
    """
    journals = sorted(run.paths.journals.glob(f"{round_:04d}-{shard:05d}-*.journal"))
    in_vain = [journal.stat().st_size <= FILE_HEADER_BYTES for journal in journals[-FRUITLESS:]]
    fruitless = restarts >= FRUITLESS and len(in_vain) == FRUITLESS and all(in_vain)
    if not fruitless:
        refuse_restarts(run, restarts)
        return
    raise FutileError(
        f"not begun again: shard {shard} was started {restarts} times in round {round_}, and cut "
        f"off before its first answer the last {FRUITLESS} times",
        cause="preemption, or nodes that fail, before the model is loaded",
        hint=f"another partition or QOS; evalhpc resume {run.word} tries again",
    )


def refuse_restarts(run: Run, restarts: int) -> None:
    """Raises FutileError for a job that Slurm has started again too often."""
    if restarts > RESTARTS:
        raise FutileError(
            f"not begun again: Slurm has started this job {restarts} times anew",
            cause="preemption or failing nodes, again and again",
            hint=f"another partition or QOS; evalhpc resume {run.word} tries again",
        )


def answering_round(run: Run, round_: int) -> int:
    """The round whose journals a shard writes now: `run.miss: wait` answers before the first."""
    return 0 if run.spec.run.miss == "wait" and not planned_rounds(run) else round_


def restarts_here() -> int:
    """How often Slurm has started this job again."""
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdigit() else 0


def _may_pass(run: Run, record: Mapping[str, Any]) -> bool:
    """Whether a file server, or a deployment job that Slurm starts again, may be back soon.

    A shard's own server that was not ready in time will not be the next time either.
    """
    theirs = record["exit_code"] == StorageError.exit_code or run.spec.shares_deployment
    return theirs and bool(record.get("transient"))


def _shards(run: Run, round_: int) -> int:
    """How many shards a round has at most."""
    if round_ not in planned_rounds(run):
        return run.first_tasks
    return max(1, min(run.spec.run.shards, len(load_plan(run, round_).units)))


def _said(run: Run, round_: int) -> dict[str, dict[str, Any]]:
    """What the shards of a round last said; those of a round without a plan beat in round 0."""
    said = worker_stats(run.paths.round_leases(round_))
    return said if round_ in planned_rounds(run) else worker_stats(run.paths.round_leases(0)) | said


def _any_answer(run: Run, round_: int) -> bool:
    return any(
        path.stat().st_size > FILE_HEADER_BYTES
        for path in run.paths.journals.glob(f"{round_:04d}-*.journal")
    )


def _first_to_say(run: Run, round_: int, fault: CommonFault) -> bool:
    path = run.paths.round_stopped(round_, resumes(run.paths))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)  # slices lease in a folder of their own
        try:
            with path.open("x") as file:
                json.dump({"why": str(fault), "what": fault.death.what}, file)
        except FileExistsError:
            return False
    return True
