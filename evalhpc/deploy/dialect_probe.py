"""Whether a server that is up is one of Export-Deploy's, which must not be asked like OpenAI's."""

from __future__ import annotations

import httpx

from evalhpc.deploy.readiness import client_for
from evalhpc.errors import EndpointError

_TIMEOUT = 30.0


def refuse_export_deploy(url: str, token: str | None) -> None:
    """Raises EndpointError where `url` (ends in /v1) answers as NVIDIA's Export-Deploy does.

    Asked like OpenAI's servers, it gives a batch the settings of its first request and pads
    log-probabilities: the scores would be wrong, and nothing would show it. It is known by two
    habits together, neither of which needs its model: it redirects paths without a slash at their
    end, and has a health route below /v1. A server that does not answer at all is not judged here.
    """
    base = url.rstrip("/")
    try:
        with client_for(url, token) as client:
            # A GET: where it is no such server, its answer is a 404 or 405, and no work.
            moved = client.get(f"{base}/completions", follow_redirects=False, timeout=_TIMEOUT)
            if moved.status_code not in (307, 308):
                return
            if not moved.headers.get("location", "").endswith("/completions/"):
                return
            healthy = client.get(f"{base}/health", timeout=_TIMEOUT).status_code == 200
    except httpx.HTTPError:
        return
    if healthy:
        raise EndpointError(
            f"{url} answers like a server of NVIDIA's Export-Deploy, and would be asked like "
            "OpenAI's",
            cause="it mixes the settings of requests that are in flight together, and pads "
            "log-probabilities: scores would be wrong",
            hint="--set deploy.options.endpoint.dialect=export-deploy --shards 1",
        )
