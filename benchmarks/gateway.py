"""How fast the gateway answers a harness, beside Starlette and nemo-evaluator's cached proxy.

The gateway is that of a pass: HttpServer with its token, PassGateway, a store.h5 opened from
disk; for misses, the file that they go to. Driven by wrk where it is installed, else by our
client; 64 connections, distinct requests.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import orjson
import uvloop

from benchmarks.exchanges import PATH, chat_body, write_store
from benchmarks.harness import Result, installed, interleaved, medians
from benchmarks.servers import (
    NEMO_PYTHON,
    NEW_PASS,
    RUN_HASH,
    TOKEN,
    Running,
    constant_server,
    gateway_server,
    running,
    running_nemo,
    starlette_server,
)
from evalhpc.gateway.app import API_ROOT, PassCounts
from evalhpc.http.client import HttpClient
from evalhpc.process import run as run_process

SECONDS = 3.0
CONNECTIONS = 64
STORED = 40_000
#: The proxy is slow: so many answers fill its cache.
PROXIED = 1_000
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
local requests, n = {}, 0
function init(args)
  for body in io.lines("%s") do requests[#requests + 1] = wrk.format(nil, nil, nil, body) end
end
function request() n = n %% #requests + 1; return requests[n] end
"""


class Rate(NamedTuple):
    """One run against one server."""

    answers: float  # a second
    cpu: float  # microseconds of the server's CPU an answer


def _client(port: int, root: str = "") -> HttpClient:
    return HttpClient(f"http://127.0.0.1:{port}{root}", token=TOKEN, connections=CONNECTIONS)


def _drive_wrk(port: int, folder: Path) -> tuple[int, float]:
    """(answers, seconds) of a run of wrk."""
    script = folder / "requests.lua"
    script.write_text(_SCRIPT % (TOKEN, folder / "bodies"))
    url = f"http://127.0.0.1:{port}{API_ROOT}{PATH}"
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS:g}s", "-s", str(script), url]
    report = run_process(argv, timeout=60).stdout
    found = re.search(r"(\d+) requests in ([\d.]+)s", report)
    if found is None or "Non-2xx" in report or "Socket errors" in report:
        raise RuntimeError(f"wrk did not get its answers:\n{report}")
    return int(found[1]), float(found[2])


async def _drive_client(port: int, folder: Path) -> tuple[int, float]:
    """(answers, seconds) of a run of our client, in this process."""
    bodies = (folder / "bodies").read_bytes().splitlines()
    numbers, answered, start = count(), 0, time.perf_counter()
    async with _client(port, API_ROOT) as client:

        async def lane() -> None:
            nonlocal answered
            while time.perf_counter() < start + SECONDS:
                response = await client.request("POST", PATH, bodies[next(numbers) % len(bodies)])
                if response.status != 200:
                    raise RuntimeError(f"the server answered {response.status}")
                answered += 1

        await asyncio.gather(*(lane() for _ in range(CONNECTIONS)))
    return answered, time.perf_counter() - start


def _drive(server: Running, folder: Path) -> Rate:
    cpu = server.cpu_seconds()
    if shutil.which("wrk"):
        answers, seconds = _drive_wrk(server.port, folder)
    else:
        answers, seconds = uvloop.run(_drive_client(server.port, folder))
    return Rate(answers / seconds, (server.cpu_seconds() - cpu) / answers * 1e6)


async def _new_pass(port: int) -> PassCounts:
    """What the passes since the last call counted."""
    async with _client(port) as client:
        return PassCounts(**orjson.loads((await client.request("GET", NEW_PASS)).body))


def _drive_gateway(server: Running, folder: Path, *, stored: bool) -> Rate:
    """A run whose answers all came from the store, or all were misses."""
    uvloop.run(_new_pass(server.port))
    rate = _drive(server, folder)
    counts = uvloop.run(_new_pass(server.port))
    if counts.asked != (counts.answered if stored else counts.misses):
        raise RuntimeError(f"not what was to be measured: {counts}")
    return rate


def _nemo(folder: Path, stack: ExitStack) -> Callable[[], Rate]:
    """nemo-evaluator's proxy, its cache filled by asking everything once."""
    model = stack.enter_context(running(constant_server))
    url = f"http://127.0.0.1:{model.port}{API_ROOT}{PATH}"
    server = stack.enter_context(running_nemo(url, folder))
    bodies = list(map(chat_body, range(PROXIED)))
    (folder / "bodies").write_bytes(b"\n".join(bodies))
    uvloop.run(_ask_all(server.port, bodies))
    return partial(_drive, server, folder)


async def _ask_all(port: int, bodies: list[bytes]) -> None:
    async with _client(port, API_ROOT) as client:
        for response in await asyncio.gather(
            *(client.request("POST", PATH, body) for body in bodies)
        ):
            if response.status != 200:
                raise RuntimeError(f"the proxy answered {response.status}")


def _all_runs(folder: Path) -> Mapping[str, list[Rate]]:
    write_store(folder, STORED, RUN_HASH)
    (folder / "bodies").write_bytes(b"\n".join(map(chat_body, range(STORED))))
    contestants: dict[str, Callable[[], Rate]] = {}
    with ExitStack() as stack:
        for name, stored in (("answers", True), ("misses", False)):
            server = stack.enter_context(
                running(gateway_server, folder, STORED // 2, stored=stored)
            )
            contestants[name] = partial(_drive_gateway, server, folder, stored=stored)
        if installed("starlette") and installed("uvicorn"):
            server = stack.enter_context(running(starlette_server, STORED))
            contestants["starlette"] = partial(_drive, server, folder)
        if NEMO_PYTHON.exists():
            (folder / "nemo").mkdir()
            contestants["nemo"] = _nemo(folder / "nemo", stack)
        return interleaved(contestants)


def _rivals(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {
        "starlette + uvicorn, dict": figures.get("starlette"),
        "nemo-evaluator cached proxy": figures.get("nemo"),
    }


def run() -> list[Result]:
    """Answers a second, and CPU an answer, of our gateway and of Starlette's look-ups."""
    with tempfile.TemporaryDirectory() as name:
        runs = _all_runs(Path(name))
    rate = medians({name: [each.answers for each in rates] for name, rates in runs.items()})
    cpu = medians({name: [each.cpu for each in rates] for name, rates in runs.items()})
    driver = "wrk" if shutil.which("wrk") else "our client"
    return [
        Result(
            "gateway: answers", rate["answers"], "answers/s", goal=5_000, higher_is_better=True,
            rivals=_rivals(rate),
            note=f"one process, {STORED:,} stored, driven by {driver}",
        ),
        Result(
            "gateway: CPU an answer", cpu["answers"], "µs",
            rivals=_rivals(cpu),
            note="of the server process",
        ),
        Result(
            "gateway: misses", rate["misses"], "stubs/s", higher_is_better=True,
            note="each written to the plan",
        ),
        Result("gateway: CPU a miss", cpu["misses"], "µs", note="of the server process"),
    ]  # fmt: skip
