"""A client for each endpoint of a run: over its copies, within its limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from evalhpc.http.balanced import BalancedClient, Client, LimitedClient
from evalhpc.http.client import HttpClient
from evalhpc.models.deployment import Existing
from evalhpc.workflow.replica import Endpoint
from evalhpc.workflow.run import Run


@asynccontextmanager
async def endpoint_clients(
    run: Run, endpoints: Mapping[str, Endpoint]
) -> AsyncIterator[dict[str, Client]]:
    """A client for each endpoint, with as many connections as requests may be in flight."""
    clients = {name: _client(run, name, endpoint) for name, endpoint in endpoints.items()}
    try:
        yield clients
    finally:
        for client in clients.values():
            await client.close()


def _client(run: Run, name: str, endpoint: Endpoint) -> Client:
    served = run.spec.served()[name]
    copies: list[Client] = [
        HttpClient(
            url,
            token=endpoint.token,
            connections=served.concurrency + 1,  # one for the canary
            timeout=run.spec.run.request_timeout,
        )
        for url in endpoint.urls
    ]
    client = copies[0] if len(copies) == 1 else BalancedClient(copies)
    deployment = served.deployment
    if isinstance(deployment, Existing) and deployment.rate_limit is not None:
        return LimitedClient(client, deployment.rate_limit / run.spec.run.shards)
    return client
