"""One collector at a time, also where the file system's locks end at each node."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evalhpc.errors import StorageError
from evalhpc.storage.leases import LeaseBook
from evalhpc.storage.locks import exclusive
from evalhpc.workflow.faults.early_stop import restarts_here
from evalhpc.workflow.record.pulse import Pulse
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.herald import node_name

_COLLECTOR = 0  # the one unit of the folder
_LOOK = 0.5

#: Raises StorageError for a collector that another one has taken for dead.
StillSole = Callable[[], None]
#: Seconds that a collector waits for another one: above what a predecessor takes to end, and what a
#: file server needs to let go of the locks of a client that died (NFSv4: 90).
PATIENCE = 180.0


@contextmanager
def alone(run: Run, wait: float = 0.0) -> Iterator[StillSole]:
    """Within the block, from the look at the rounds to the next one's submission, no other
    collector decides; StorageError where one is at work. To be called before what cannot be
    undone: it tells whether another has taken this one for dead.

    `wait`: seconds for which the other one is waited for. Collectors do: for a predecessor that is
    asked to end, or may still submit what this one is the collector of; for a merge by hand; for
    the file server to take the lock from their own first life, on a node that died with it.
    """
    busy = "another collector of this run is at work"
    with exclusive(run.paths.collect_lock, busy, wait=wait):
        if run.spec.site.scheduler == "local":
            yield lambda: None  # all on one machine, where locks do hold
            return
        with claimed_collector(run, busy, wait) as still_sole:
            yield still_sole


@contextmanager
def claimed_collector(run: Run, busy: str, wait: float = 0.0) -> Iterator[StillSole]:
    """Hold the run's collector lease within the block; StorageError (`busy`) if another one does.

    One that was killed holds it as long as a dead shard its units: until its heartbeat has stood
    still for `run.lease_timeout` seconds, which are waited for; not so within one start of a job.
    One that lives is waited for `wait` seconds.
    """
    worker = _worker()
    timeout = run.spec.run.lease_timeout
    book = LeaseBook(run.paths.collector_leases, worker, timeout)

    def still_sole() -> None:
        if not book.still_mine(_COLLECTOR):
            raise StorageError(
                "another collector has taken over this run",
                cause=f"this one was not heard of for {timeout:g} s (run.lease_timeout)",
                hint=f"evalhpc status {run.word}",
            )

    try:
        _await(book, max(wait, timeout), busy)
        pulse = Pulse(lambda: book.beat({}))
        pulse.start()
        try:
            yield still_sole
        finally:
            pulse.stop()
    finally:
        book.end({})


def _worker() -> str:
    """The same for whoever follows in this start of a job: its predecessor there is dead."""
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        return f"{node_name()}-job-{job}-{restarts_here()}"
    return f"{node_name()}-{os.getpid()}-{secrets.token_hex(4)}"


def _await(book: LeaseBook, timeout: float, busy: str) -> None:
    """Return once the lease is ours; StorageError when its holder still lives after `timeout`."""
    deadline = time.monotonic() + timeout + 4 * _LOOK
    while book.next_unit([_COLLECTOR]) is None:
        if time.monotonic() > deadline:
            raise StorageError(
                busy, cause="it was started twice", hint="wait for the other one to end"
            )
        time.sleep(_LOOK)
