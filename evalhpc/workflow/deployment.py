"""A deployment job: the run's model servers behind one address with a token, for all shards."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Mapping

import uvloop

from evalhpc.errors import EvalhpcError
from evalhpc.gateway.front import Front
from evalhpc.gateway.switchboard import base_path
from evalhpc.http.balanced import Client
from evalhpc.http.server import HttpServer
from evalhpc.workflow.clients import endpoint_clients
from evalhpc.workflow.replica import Replicas
from evalhpc.workflow.run import Run
from evalhpc.workflow.shared import (
    BEAT,
    Published,
    drop_token,
    make_token,
    node_name,
    publish,
    read_token,
)
from evalhpc.workflow.signals import interruptible, until_signalled

log = logging.getLogger(__name__)


def run_deployment(run: Run, job: int) -> None:
    """Serve until no round needs it: the run is over, or `run.linger` passed without a request.

    Raises EndpointError when a server ends before; the shards get to know why.
    """
    start = secrets.token_hex(8)
    make_token(run)
    try:
        with interruptible(), Replicas(run, 0, job, serve=True) as replicas:
            uvloop.run(until_signalled(_serve(run, job, start, replicas)))
        if _over(run):
            drop_token(run)
    except EvalhpcError as error:
        publish(run, Published(job=job, start=start, node=node_name(), urls={}, beat=0,
                               error=error.what))  # fmt: skip
        raise


async def _serve(run: Run, job: int, start: str, replicas: Replicas) -> None:
    endpoints = await asyncio.to_thread(replicas.ready)
    async with endpoint_clients(run, endpoints) as clients:
        await _answer(run, job, start, replicas, clients)


async def _answer(
    run: Run, job: int, start: str, replicas: Replicas, clients: Mapping[str, Client]
) -> None:
    front, server = Front(clients), HttpServer()
    host = await asyncio.to_thread(_address)
    port = await server.start(front, host=host, token=read_token(run))
    urls = {name: f"http://{host}:{port}{base_path(name)}" for name in clients}
    log.info("deployment job %d serves %s", job, ", ".join(urls.values()))
    beat = 0
    try:
        while not _over(run) and time.monotonic() - front.last_request < run.spec.run.linger:
            publish(run, Published(job=job, start=start, node=node_name(), urls=urls, beat=beat))
            beat += 1
            await asyncio.sleep(BEAT)
            if (error := replicas.death()) is not None:
                raise error
    finally:
        await server.close()


def _over(run: Run) -> bool:
    paths = run.paths
    return paths.certificate.exists() or paths.cancelled.exists() or paths.failure.exists()


def _address() -> str:
    """The address of this node that others reach: what its name means, else its way out."""
    found = socket.getaddrinfo(node_name(), None, socket.AF_INET, socket.SOCK_STREAM)
    for *_, address in found:
        if not str(address[0]).startswith("127."):
            return str(address[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 9))  # sends nothing: asks the routing table
        return str(probe.getsockname()[0])
