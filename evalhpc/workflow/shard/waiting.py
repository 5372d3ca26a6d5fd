"""`run.miss: wait` in a shard: answer what pass 0 waits for; one of the shards runs the pass."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import uvloop

from evalhpc import process
from evalhpc.errors import HarnessError, StorageError
from evalhpc.storage.atomic import is_there
from evalhpc.worker.loop import WorkCounts
from evalhpc.workflow.answer.answering import answer
from evalhpc.workflow.answer.queue_desk import QueueDesk
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.clients import endpoint_clients
from evalhpc.workflow.serve.liveness import while_alive
from evalhpc.workflow.serve.replica import Endpoint, Replicas

if TYPE_CHECKING:
    import subprocess  # for an annotation: only `process` runs commands

log = logging.getLogger(__name__)
_LOOK = 0.5


def answer_queue(run: Run, shard: int, replicas: Replicas, total: WorkCounts) -> bool:
    """Answer until pass 0 is over; False when it failed."""
    desk = QueueDesk(run, shard)
    with desk:
        endpoints = replicas.ready()
        serving = while_alive(
            _serve(desk, endpoints), lambda: None if desk.leaving else replicas.death()
        )
        uvloop.run(serving)
    total.answered += desk.counts.answered
    total.units += desk.counts.units
    return bool(planned_rounds(run))


async def _serve(desk: QueueDesk, endpoints: dict[str, Endpoint]) -> None:
    def ended(_task: asyncio.Task[None]) -> None:
        desk.leaving = True  # whatever its end, nobody here sees to the pass any more

    seeing_to_pass = asyncio.create_task(_see_to_pass(desk))
    seeing_to_pass.add_done_callback(ended)
    try:
        async with endpoint_clients(desk.run, endpoints) as clients:
            await answer(desk, clients)
        # Its plan is there before its outcomes are: the process is to end by itself.
        await seeing_to_pass
    finally:
        desk.leaving = True
        seeing_to_pass.cancel()
        await asyncio.gather(seeing_to_pass, return_exceptions=True)


async def _see_to_pass(desk: QueueDesk) -> None:
    """Run pass 0 in a process of its own, if no other shard that lives does."""
    while not (desk.leaving or desk.over()):
        # Its last holder may have died right after it had planned.
        if await asyncio.to_thread(desk.claim_pass) and not desk.over():
            await _pass(desk)
        await asyncio.sleep(_LOOK)


async def _pass(desk: QueueDesk) -> None:
    run = desk.run
    log.info("this shard runs pass 0 beside its model")
    command = [run.spec.python, "-m", "evalhpc", "node", "pass", "--run-dir", str(run.paths.root)]
    child: subprocess.Popen[bytes] = process.start(
        [*command, "--pass", "0", "--lease", str(desk.pass_lease())],
        log=run.paths.log("planning-0.log"),
        env=dict(os.environ),
    )
    try:
        while child.poll() is None:
            await asyncio.sleep(_LOOK)
            if not await asyncio.to_thread(_held, desk):
                log.warning("pass 0 was taken over by another shard, which runs it anew")
                return
    finally:
        process.stop(child)
    await asyncio.to_thread(_settle, desk, child.returncode)


def _held(desk: QueueDesk) -> bool:
    try:
        return desk.holds_pass()
    except StorageError as error:
        log.warning("whether pass 0 is still ours will be seen at the next look: %s", error.what)
        return True


def _settle(desk: QueueDesk, code: int) -> None:
    """After the pass's process has ended: a pass that planned nothing is not done.

    Whoever resumes the run runs it again, and so do other shards where this one is to end.
    """
    run = desk.run
    if planned_rounds(run):
        desk.settle_pass()
    elif not (desk.leaving or is_there(run.paths.failure)) and desk.holds_pass():
        error = HarnessError(
            f"pass 0 ended with exit code {code} and planned nothing",
            cause="it was killed, or its node ran out of memory",
            hint=f"evalhpc logs {run.word} --kind planning, then: evalhpc resume {run.word}",
        )
        note_failure(run, error)
