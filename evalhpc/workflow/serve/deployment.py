"""A deployment job: the run's model servers behind one address with a token, for all shards."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import uvloop

from evalhpc.gateway.front import Front
from evalhpc.gateway.switchboard import base_path
from evalhpc.http.server import HttpServer
from evalhpc.models.site import RunSettings
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import interruptible, until_signalled
from evalhpc.workflow.record.tokens import make_token, read_token
from evalhpc.workflow.serve.clients import endpoint_clients
from evalhpc.workflow.serve.herald import Herald, is_over, node_name
from evalhpc.workflow.serve.replica import Endpoint, Replicas

log = logging.getLogger(__name__)

#: Seconds between two looks at the servers, and between two at the shards' signs of life.
LOOK = 0.5
SIGNS = 10.0


def run_deployment(run: Run, job: int) -> None:
    """Serve until no round needs it: the run is over, or `run.linger` passed without a sign of it.

    Raises EndpointError when a server ends before; the shards get to know why.
    """
    if is_over(run):
        log.info("deployment job %d: the run is over", job)
        return
    make_token(run)
    with interruptible(), Replicas(run, 0, job, serve=True) as replicas, Herald(run, job) as herald:
        # Not in the loop, whose end would wait for the thread that waits for the servers.
        endpoints = replicas.ready(replicas.started_here())
        uvloop.run(until_signalled(_serve(run, herald, replicas, endpoints)))


async def _serve(
    run: Run, herald: Herald, replicas: Replicas, endpoints: Mapping[str, Endpoint]
) -> None:
    async with endpoint_clients(run, endpoints, shards=run.spec.run.shards) as clients:
        front, server = Front(clients), HttpServer()
        host = await asyncio.to_thread(_address)
        port = await server.start(front, host=host, token=read_token(run))
        urls = {name: f"http://{host}:{port}{base_path(name)}" for name in clients}
        log.info("serving %s", ", ".join(urls.values()))
        herald.serves(urls)
        try:
            await _until_idle(run, herald, replicas, front)
        finally:
            herald.silence()
            await server.close()


async def _until_idle(run: Run, herald: Herald, replicas: Replicas, front: Front) -> None:
    signs = _Signs(run)
    while not herald.dismissed and not herald.superseded:
        await asyncio.sleep(LOOK)
        if (error := replicas.death()) is not None:
            raise error
        quiet = time.monotonic() - max(front.last_request, herald.called, signs.last())
        limit = _patience(run.spec.run, asked=front.requests > 0)
        if not front.busy and quiet > limit and herald.leave(f"nothing asked it for {limit:g} s"):
            log.info("no request for %g s: ending", limit)
            return


def _patience(settings: RunSettings, *, asked: bool) -> float:
    """Seconds without a sign of a shard: longer than one needs to give it, or to come at first."""
    least = max(settings.linger, settings.lease_timeout, 2 * settings.canary)
    return least if asked else max(least, settings.ready_timeout)


class _Signs:
    """When shards last gave a sign of life: their heartbeats change; no two clocks are compared."""

    def __init__(self, run: Run) -> None:
        self._folder = run.paths.leases
        self._seen = self._look()
        self._looked = self._changed = time.monotonic()

    def last(self) -> float:
        """Seconds on the monotonic clock."""
        now = time.monotonic()
        if now - self._looked >= SIGNS:
            self._looked = now
            if (seen := self._look()) != self._seen:
                self._seen, self._changed = seen, now
        return self._changed

    def _look(self) -> dict[Path, int]:
        # Each file's own: the newest of all may for long be that of a clock which is ahead.
        found: dict[Path, int] = {}
        for path in self._folder.glob("*/workers/*.json"):
            try:
                found[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
        return found


def _address() -> str:
    """The address of this node that others reach: what its name means, else its way out."""
    if stated := os.environ.get("EVALHPC_NODE_ADDRESS"):
        return stated
    try:
        found = socket.getaddrinfo(node_name(), None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        found = []  # a node whose name nobody knows still has addresses
    for *_, address in found:
        if not str(address[0]).startswith("127."):
            return str(address[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 9))  # sends nothing: asks the routing table
        return str(probe.getsockname()[0])
