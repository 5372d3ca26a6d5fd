"""A client for each endpoint of a run: over its copies, within its limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from evalhpc.http.balanced import BalancedClient, Client, LimitedClient
from evalhpc.http.client import HttpClient
from evalhpc.models.deployment import Existing
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.serve.moving import MovingClient
from evalhpc.workflow.serve.replica import Endpoint


@asynccontextmanager
async def endpoint_clients(
    run: Run, endpoints: Mapping[str, Endpoint], *, shards: int = 1
) -> AsyncIterator[dict[str, Client]]:
    """A client for each endpoint, with as many connections as requests may be in flight.

    They carry the requests of so many of the run's shards, and get their part of a rate limit.
    """
    clients = {name: _client(run, name, endpoint, shards) for name, endpoint in endpoints.items()}
    try:
        yield clients
    finally:
        for client in clients.values():
            await client.close()


def _client(run: Run, name: str, endpoint: Endpoint, shards: int) -> Client:
    served = run.spec.served()[name]

    def connect(url: str) -> Client:
        return HttpClient(
            url,
            token=endpoint.token,
            connections=shards * (served.concurrency + 1),  # one for the canary
            timeout=run.spec.run.request_timeout,
            max_reply=int(run.spec.run.max_reply * 2**20),
        )

    if endpoint.where is not None:
        return MovingClient(endpoint.where, connect)
    copies = [connect(url) for url in endpoint.urls]
    client = copies[0] if len(copies) == 1 else BalancedClient(copies)
    deployment = served.deployment
    if isinstance(deployment, Existing) and deployment.rate_limit is not None:
        return LimitedClient(client, deployment.rate_limit * shards / run.spec.run.shards)
    return client
