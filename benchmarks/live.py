"""What the gateway adds to an answer of the model where it forwards misses: latency.

The same server, one that answers at once, is asked directly and through the gateway of a live
pass: look-up, plan, forwarding as workers ask, journal. The client is ours in both cases.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

import uvloop

from benchmarks.exchanges import PATH, chat_body
from benchmarks.harness import Result, interleaved, medians
from benchmarks.servers import TOKEN, constant_server, live_server, running
from evalhpc.gateway.app import API_ROOT
from evalhpc.http.client import HttpClient

#: Requests of one run over so many connections.
REQUESTS: Mapping[int, int] = {1: 2_000, 8: 8_000}
_UNMEASURED = 200


class Latency(NamedTuple):
    """One run: milliseconds."""

    median: float
    p99: float


async def _latency(port: int, connections: int, numbers: count[int]) -> Latency:
    taken: list[float] = []
    url = f"http://127.0.0.1:{port}{API_ROOT}"
    wanted = REQUESTS[connections] + _UNMEASURED
    async with HttpClient(url, token=TOKEN, connections=connections) as client:

        async def lane() -> None:
            while len(taken) < wanted:
                body = chat_body(next(numbers))
                start = time.perf_counter()
                response = await client.request("POST", PATH, body)
                taken.append(time.perf_counter() - start)
                if response.status != 200:
                    raise RuntimeError(f"the server answered {response.status}")

        await asyncio.gather(*(lane() for _ in range(connections)))
    cuts = quantiles(taken[_UNMEASURED:], n=100)
    return Latency(cuts[49] * 1e3, cuts[98] * 1e3)


def _all_runs(folder: Path) -> dict[str, list[Latency]]:
    numbers = count()  # every request is new

    def measure(port: int, connections: int) -> Latency:
        return uvloop.run(_latency(port, connections, numbers))

    with running(constant_server) as model:
        url = f"http://127.0.0.1:{model.port}{API_ROOT}"
        with running(live_server, folder, url) as gateway:
            contestants: dict[str, Callable[[], Latency]] = {
                f"{name} {connections}": partial(measure, server.port, connections)
                for connections in REQUESTS
                for name, server in (("direct", model), ("live", gateway))
            }
            return interleaved(contestants)


def run() -> list[Result]:
    """Median and 99th percentile of latency through the gateway above those of direct requests."""
    with tempfile.TemporaryDirectory() as name:
        runs = _all_runs(Path(name))
    results = []
    for connections in REQUESTS:
        for name, goal in (("median", 1.0), ("p99", None)):
            of = medians(
                {who: [getattr(each, name) for each in some] for who, some in runs.items()}
            )
            live, direct = of[f"live {connections}"], of[f"direct {connections}"]
            results.append(
                Result(
                    f"live: {name} added, {connections} at once", live - direct, "ms", goal=goal,
                    rivals={"direct, in all": direct},
                    note=f"{REQUESTS[connections]:,} 1 KB chats a run, with journal and plan",
                )
            )  # fmt: skip
    return results
