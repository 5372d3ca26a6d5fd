"""Servers to measure, or to measure against, each in a process of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import orjson
import uvloop

from benchmarks.exchanges import BENCHMARK, ENDPOINT, MODEL, body_hash, chat_answer, chat_body
from evalhpc.gateway.app import PassCounts, PassGateway
from evalhpc.http.messages import HttpReply, HttpRequest
from evalhpc.http.server import HttpServer
from evalhpc.http.service import Handler
from evalhpc.paths import RunPaths
from evalhpc.process import start, stop
from evalhpc.storage.requests_file import RequestWriter
from evalhpc.storage.store import Store
from evalhpc.workflow.passes.live import live_answers
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.replica import Endpoint
from tests.factories import make_spec

RUN_HASH = "0" * 64
TOKEN = "benchmark"
#: Begins a new pass and says what the one before it counted.
NEW_PASS = "/new-pass"
#: nemo-evaluator lives in an environment of its own, as some harnesses exclude one another.
NEMO_PYTHON = Path(sys.prefix, "harnesses", "nemo-evaluator", "bin", "python")
#: Its adapter server, which keeps the answers of an endpoint and gives them again: as its own
#: evaluations start it, but for the interceptors that only count or log.
_NEMO = """
import sys
from nemo_evaluator.adapters.adapter_config import AdapterConfig, InterceptorConfig
from nemo_evaluator.adapters.server import AdapterServer
url, folder, port = sys.argv[1:]
cache = {"cache_dir": folder + "/cache", "reuse_cached_responses": True}
interceptors = [InterceptorConfig(name="caching", config=cache), InterceptorConfig(name="endpoint")]
AdapterServer(url, folder, AdapterConfig(interceptors=interceptors), int(port)).run()
"""
P = ParamSpec("P")


class Passes:
    """Pass after pass of the real gateway over one store, each of so many requests.

    A request that comes up twice in one pass is a second sample, which has no answer yet. With
    passes half as long as the list of requests that the driver cycles through, none does.
    """

    def __init__(self, store: Store, folder: Path, length: int) -> None:
        self._store = store
        self._folder = folder
        self._length = length
        self._counts = PassCounts()
        self._begin()

    def __call__(self, request: HttpRequest) -> HttpReply | Awaitable[HttpReply]:
        if self._gateway.counts.asked == self._length:
            self._end()
            self._begin()
        if request.target == NEW_PASS:
            return self._new_pass()
        return self._gateway(request)

    def _new_pass(self) -> HttpReply:
        self._end()
        counts, self._counts = self._counts, PassCounts()
        self._begin()
        return HttpReply(200, orjson.dumps(asdict(counts)))

    def _begin(self) -> None:
        self._misses = RequestWriter(self._folder / "misses.frames", RUN_HASH)
        self._gateway = PassGateway(
            benchmark=BENCHMARK,
            endpoint=ENDPOINT,
            model_id=MODEL,
            lookup=self._store.get,
            record_miss=self._misses.append,
        )

    def _end(self) -> None:
        self._misses.discard()
        for name, count in asdict(self._gateway.counts).items():
            setattr(self._counts, name, getattr(self._counts, name) + count)


async def _serve(handler: Handler, ready: Connection, token: str | None = None) -> None:
    ready.send(await HttpServer().start(handler, token=token))
    await asyncio.Event().wait()


def constant_server(ready: Connection) -> None:
    """HttpServer with one answer to everything: as little work as a model server can do."""
    reply = HttpReply(200, chat_answer(0))
    uvloop.run(_serve(lambda _: reply, ready))


def gateway_server(ready: Connection, folder: Path, length: int, *, stored: bool) -> None:
    """The gateway as a pass runs it, over the store in `folder` or over none."""
    store = Store.open(folder / "store.h5", RUN_HASH) if stored else Store.empty()
    uvloop.run(_serve(Passes(store, folder, length), ready, TOKEN))


def live_server(ready: Connection, folder: Path, base_url: str) -> None:
    """The gateway of a pass of `--miss forward`, without a harness: every request is a miss."""
    uvloop.run(_serve_live(ready, folder, base_url))


async def _serve_live(ready: Connection, folder: Path, base_url: str) -> None:
    spec = make_spec()
    run = Run(RunPaths(folder), spec, spec.digest())
    run.paths.journals.mkdir()
    endpoints = dict.fromkeys(spec.served(), Endpoint((base_url,), TOKEN))
    with RequestWriter(folder / "misses.frames", run.hash) as misses:
        async with live_answers(run, 0, endpoints) as live:
            gateway = PassGateway(
                benchmark=BENCHMARK,
                endpoint=ENDPOINT,
                model_id=MODEL,
                lookup=Store.empty().get,
                record_miss=misses.append,
                forward=live,
            )
            await _serve(gateway, ready, TOKEN)


def starlette_server(ready: Connection, count: int) -> None:
    """The same answers from a dict, by Starlette under uvicorn, with httptools and uvloop too."""
    import uvicorn  # a rival: only where it is measured
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    store = {body_hash(chat_body(number)): chat_answer(number) for number in range(count)}

    async def answer(request: Request) -> Response:
        body = store.get(body_hash(await request.body()))
        return Response(body, 404 if body is None else 200, media_type="application/json")

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    ready.send(listener.getsockname()[1])
    app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_level="error"
    )
    uvicorn.Server(config).run(sockets=[listener])


@dataclass(frozen=True)
class Running:
    """A server process and its port."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time that the process has used (Linux: fields 14 and 15 of its stat line)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(
    target: Callable[Concatenate[Connection, P], None], *args: P.args, **kwargs: P.kwargs
) -> Iterator[Running]:
    """`target` in a fresh process, until the block ends."""
    context: Any = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), kwargs=kwargs, daemon=True)
    process.start()
    theirs.close()
    try:
        yield Running(ours.recv(), process.pid)
    finally:
        process.kill()
        process.join()


@contextmanager
def running_nemo(url: str, folder: Path) -> Iterator[Running]:
    """nemo-evaluator's cached proxy of the endpoint `url`, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [str(NEMO_PYTHON), "-c", _NEMO, url, str(folder), str(port)]
    child = start(argv, log=folder / "nemo.log")
    try:
        _wait_listening(port, seconds=60)
        yield Running(port, child.pid)
    finally:
        stop(child)


def _wait_listening(port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
