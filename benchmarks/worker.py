"""What a request costs a worker that keeps 64 under way, beside other clients.

`worker` is its loop: replies parsed and classified, answers journalled; units come from memory.
`shard` adds what a unit of 32 costs: its lease, reading it from the plan file, syncing the
journal, marking it done. The figure is CPU time of the process, threads included: a worker
shares its node with a model server.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import uvloop

from benchmarks.clients import (
    CONCURRENCY,
    Cost,
    aiohttp_client,
    http_client,
    httpx_client,
    lm_eval_client,
    measured,
)
from benchmarks.exchanges import requests
from benchmarks.harness import Result, installed, interleaved, medians
from benchmarks.servers import constant_server, running
from evalhpc.core.identity import Answer, Request
from evalhpc.core.planning import LARGEST_UNIT, Unit
from evalhpc.http.client import HttpClient
from evalhpc.paths import RunPaths
from evalhpc.storage.journal import JournalWriter
from evalhpc.worker.loop import Units, WorkCounts, Worker
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.record.rounds import plan_round
from evalhpc.workflow.record.run import Run
from tests.factories import make_spec

REQUESTS = 20_000
#: Rival → (module that it needs, client, requests): the slow ones answer fewer.
_RIVALS: dict[str, tuple[str, Callable[[str, int], Cost], int]] = {
    "aiohttp": ("aiohttp", aiohttp_client, 4_000),
    "lm-eval": ("lm_eval", lm_eval_client, 2_000),
    "httpx": ("httpx", httpx_client, 300),
}


class ListedUnits:
    """Units from a list in memory."""

    def __init__(self, listed: list[Request]) -> None:
        self._listed = listed
        self._starts = iter(range(0, len(listed), LARGEST_UNIT))

    async def take(self) -> tuple[Unit, list[Request]] | None:
        """The next so many requests."""
        start = next(self._starts, None)
        if start is None:
            return None
        some = self._listed[start : start + LARGEST_UNIT]
        return Unit(id=start, start=0, end=0, count=len(some), benchmark=some[0].benchmark), some

    async def settle(self, _: Unit) -> None:
        """Durable at the end."""


async def _work(
    base_url: str,
    units: Units,
    record: Callable[[bytes, Answer], None],
    at_end: Callable[[], None] = lambda: None,
) -> Cost:
    counts = WorkCounts()
    async with HttpClient(base_url, connections=CONCURRENCY) as client:
        worker = Worker(client, units, record, counts, concurrency=CONCURRENCY)

        async def work() -> None:
            await worker.run()
            at_end()

        cost = await measured(work(), REQUESTS)
    if counts.answered != REQUESTS or counts.retried:
        raise RuntimeError(f"not every request was answered at once: {counts}")
    return cost


def _shard(base_url: str, run: Run, attempts: Iterator[int]) -> Cost:
    """The worker at a shard's desk, for a round of its own."""
    round_ = next(attempts)
    plan_round(run, round_, requests(REQUESTS))
    with Desk(run, round_, 0) as desk:
        cost = uvloop.run(_work(base_url, desk, desk.record))
    run.paths.journal(round_, 0, 0).unlink()
    return cost


def _worker(base_url: str, listed: list[Request], path: Path) -> Cost:
    """The worker with a journal, without plan file and leases."""
    with JournalWriter.create(path, "0" * 64) as journal:
        units = ListedUnits(listed)
        cost = uvloop.run(_work(base_url, units, journal.append, journal.flush))
    path.unlink()
    return cost


def _new_run(root: Path) -> Run:
    """A run of which nothing is planned yet."""
    spec = make_spec()
    run = Run(RunPaths(root), spec, spec.digest())
    run.paths.journals.mkdir()
    return run


def _all_runs(folder: Path) -> dict[str, list[Cost]]:
    with running(constant_server) as server:
        base_url = f"http://127.0.0.1:{server.port}/v1"
        contestants: dict[str, Callable[[], Cost]] = {
            "worker": partial(_worker, base_url, list(requests(REQUESTS)), folder / "journal"),
            "shard": partial(_shard, base_url, _new_run(folder), count(1)),
            "client": partial(http_client, base_url, REQUESTS),
        }
        for name, (module, client, some) in _RIVALS.items():
            if installed(module):
                contestants[name] = partial(client, base_url, some)
        return interleaved(contestants)


def run() -> list[Result]:
    """CPU and rate of the worker, of its parts, and of the rivals, against the same server."""
    with tempfile.TemporaryDirectory() as name:
        runs = _all_runs(Path(name))
    cpu = medians({name: [cost.cpu for cost in costs] for name, costs in runs.items()})
    rate = medians({name: [cost.rate for cost in costs] for name, costs in runs.items()})
    return [
        Result(
            "worker: CPU a request", cpu["worker"], "µs", goal=50,
            rivals={name: cpu.get(name) for name in _RIVALS},
            note="1 KB chat, 64 at once; JSON and journal included",
        ),
        Result(
            "worker: rate", rate["worker"], "requests/s", higher_is_better=True,
            rivals={name: rate.get(name) for name in _RIVALS},
            note="one process; JSON and journal included",
        ),
        Result(
            "worker: CPU in a shard", cpu["shard"], "µs",
            note="and plan file, leases, and a sync as units of 32 end",
        ),
        Result(
            "worker: rate in a shard", rate["shard"], "requests/s", higher_is_better=True,
            note="and plan file, leases, and a sync as units of 32 end",
        ),
        Result("worker: CPU, HTTP client alone", cpu["client"], "µs", note="JSON included"),
    ]  # fmt: skip
