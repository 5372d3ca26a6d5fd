"""How much of their time workers spend waiting for a model: the makespan of whole rounds.

Real plans, desks, leases, journals and workers, in two processes; only the model server is a
simulation: it answers a request after a time that is drawn from a heavy tail, log-normal and cut
off by the request's max_tokens, as lengths of generations are. 100 % is the bound that no
schedule beats: all latencies over all slots, or the longest of them. The rival is the same plan
in fixed slices (`run.schedule: static`).
"""

from __future__ import annotations

import asyncio
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import orjson
import uvloop

from benchmarks.harness import Result, interleaved
from evalhpc.core.identity import Request, make_key
from evalhpc.http.client import HttpClient
from evalhpc.http.messages import JSON, HttpResponse
from evalhpc.paths import RunPaths
from evalhpc.worker.loop import Worker
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.record.rounds import plan_round
from evalhpc.workflow.record.run import Run
from tests.factories import make_spec

CONCURRENCY = 8
REQUESTS_PER_SLOT = 30
PROCESSES = 2
#: (max_tokens, share of the requests): kinds of generations that one benchmark asks for.
MIXED = ((2048, 0.2), (512, 0.3), (64, 0.5))
#: A length is log-normal around this part of max_tokens, with this standard deviation.
USUAL_PART, SIGMA = 0.25, 1.0
#: Workers → percent that a schedule must reach.
GOALS = {8: 95.0, 32: 92.0, 128: 85.0}
#: Workers → seconds of the mean request. Those of real models take seconds. Fewer are harder, but
#: two cores must do the leasing of all workers: with 128, at 0.4 s, it is these that are measured.
MEAN_LATENCY = {8: 0.15, 32: 0.15, 128: 2.0}
ROUNDS = 3

_ANSWER = orjson.dumps({"choices": [{"text": "x" * 200, "finish_reason": "stop"}]})


def latency(body: bytes, second: float) -> float:
    """Seconds that this request takes, where a second is so many tokens; always the same."""
    asked = orjson.loads(body)
    length = random.Random(asked["seed"]).lognormvariate(0.0, SIGMA)
    tokens: float = max(1.0, min(1.0, USUAL_PART * length) * asked["max_tokens"])
    return tokens / second


class SimulatedServer(HttpClient):
    """A client whose server answers by itself, after a request's latency."""

    def __init__(self, second: float) -> None:
        super().__init__("http://127.0.0.1:9/v1", connections=CONCURRENCY)
        self._second = second
        self.busy = 0.0

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        """The same answer to everything."""
        del method, target, content_type
        seconds = latency(body, self._second)
        self.busy += seconds
        await asyncio.sleep(seconds)
        return HttpResponse(200, ((b"content-type", JSON.encode()),), _ANSWER)


@dataclass(frozen=True)
class Workload:
    """Requests for so many workers, in the order of a harness."""

    workers: int

    def requests(self) -> list[Request]:
        """Seeded, the kinds at random."""
        source = random.Random(self.workers)
        lengths, shares = [length for length, _ in MIXED], [share for _, share in MIXED]
        total = self.workers * CONCURRENCY * REQUESTS_PER_SLOT
        drawn = source.choices(lengths, shares, k=total)
        return [_request(number, length) for number, length in enumerate(drawn)]


def _request(number: int, max_tokens: int) -> Request:
    question = random.Random(number).randbytes(200).hex()
    body = orjson.dumps({"prompt": question, "max_tokens": max_tokens, "seed": number})
    key = make_key(number.to_bytes(16, "big"), 0)
    return Request(key, "b", "model", "POST", "/completions", body)


@dataclass(frozen=True)
class Share:
    """What one process saw: when it worked (system-wide clock), CPU seconds, latencies, answers."""

    begin: float
    end: float
    cpu: float
    busy: float
    answered: int


@dataclass(frozen=True)
class Round:
    """One round's efficiency in percent, and the CPU that its processes used of two cores."""

    efficiency: float
    cpu: float


def _work(root: Path, run_json: str, round_: int, shards: range, at: float, second: float) -> Share:
    """One process: its shards side by side, from the time `at` on."""
    spec = make_spec().model_validate_json(run_json)
    run = Run(RunPaths(root), spec, spec.digest())
    desks = [Desk(run, round_, shard) for shard in shards]
    servers = [SimulatedServer(second) for _ in shards]

    async def one(desk: Desk, server: SimulatedServer) -> None:
        # The pace of requests is another subject: every slot may be used from the start.
        units = desk.at("model")
        await Worker(
            server, units, desk.record, desk.counts, concurrency=CONCURRENCY, adaptive=False
        ).run()

    async def all_() -> Share:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(len(shards)))  # as many as real processes had
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        begin, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*map(one, desks, servers))
        return Share(
            begin,
            time.monotonic(),
            time.process_time() - cpu,
            sum(server.busy for server in servers),
            sum(desk.counts.answered for desk in desks),
        )

    for desk in desks:
        desk.__enter__()
    try:
        return uvloop.run(all_())
    finally:
        for desk in desks:
            desk.__exit__(None, None, None)


def _round(
    pool: ProcessPoolExecutor, root: Path, workload: Workload, requests: Sequence[Request],
    schedule: str, numbers: count[int],
) -> Round:  # fmt: skip
    """Plan a round, have it answered, and compare with what is possible."""
    second = _second(requests, MEAN_LATENCY[workload.workers])
    spec = make_spec(run={"shards": workload.workers, "schedule": schedule})
    folder = root / f"{next(numbers)}"
    run = Run(RunPaths(folder), spec, spec.digest())
    run.paths.journals.mkdir(parents=True)
    plan_round(run, 1, requests)
    slices = [range(n, workload.workers, PROCESSES) for n in range(PROCESSES)]
    at = time.monotonic() + 0.5 + workload.workers / 100
    work = partial(_work, folder, spec.model_dump_json(), 1, at=at, second=second)
    shares = list(pool.map(work, slices))
    if (answered := sum(share.answered for share in shares)) != len(requests):
        raise RuntimeError(f"{answered} answers to {len(requests)} requests")
    makespan = max(share.end for share in shares) - min(share.begin for share in shares)
    slots = workload.workers * CONCURRENCY
    longest = max(latency(request.body, second) for request in requests)
    bound = max(sum(share.busy for share in shares) / slots, longest)
    cpu = sum(share.cpu for share in shares) / makespan / PROCESSES
    return Round(100 * bound / makespan, 100 * cpu)


def _second(requests: Sequence[Request], mean: float) -> float:
    """Tokens a second that make the mean latency so many seconds."""
    tokens = math.fsum(latency(request.body, 1.0) for request in requests)
    return tokens / len(requests) / mean


def run() -> list[Result]:
    """Efficiency of dynamic leases beside fixed slices, for 8 to 128 workers."""
    spawned = get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(PROCESSES, mp_context=spawned) as pool,
    ):
        contestants: dict[str, Callable[[], Round]] = {}
        numbers = count()
        for workload in map(Workload, GOALS):
            requests = workload.requests()
            for schedule in ("dynamic", "static"):
                contestants[f"{workload.workers} {schedule}"] = partial(
                    _round, pool, Path(name), workload, requests, schedule, numbers
                )
        rounds = interleaved(contestants, ROUNDS)
    return [_result(rounds, workers) for workers in GOALS]


def _result(rounds: dict[str, list[Round]], workers: int) -> Result:
    dynamic, static = rounds[f"{workers} dynamic"], rounds[f"{workers} static"]
    return Result(
        f"efficiency: {workers} workers",
        median(each.efficiency for each in dynamic),
        "% of ideal",
        goal=GOALS[workers],
        higher_is_better=True,
        rivals={"static": median(each.efficiency for each in static)},
        runs=ROUNDS,
        note=f"{CONCURRENCY} at once each, {MEAN_LATENCY[workers]} s on average; "
        f"CPU {median(each.cpu for each in dynamic):.0f} % of 2",
    )
