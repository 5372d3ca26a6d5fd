"""The RunSpec: everything that decides a run, frozen at submission; its hash names the run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field

from evalhpc.models.base import Frozen
from evalhpc.models.checkpoint import Model
from evalhpc.models.deployment import Deployment
from evalhpc.models.site import RunSettings, Site
from evalhpc.models.suite import MODEL_ENDPOINT, Benchmark, EndpointName, ServiceKind

#: Raised when the layout of a run directory changes; an older run is then refused by name.
FORMAT_VERSION = 1


class HarnessSpec(Frozen):
    """What the run needs to know of a harness, copied from the catalogue entry."""

    name: str
    template: str  # under harness/ of the templates
    results: str  # which reader turns its output into results.yml
    api_key_env: str = "OPENAI_API_KEY"  # the variable that the harness sends as bearer token
    selection: str | None = None  # how it is told which documents to run; None: it cannot be
    volatile: tuple[str, ...] = ()  # top-level body fields that do not identify a request
    image: str | None = None
    python: str | None = None  # interpreter that it is installed in; None: the run's own


class Served(Frozen):
    """One endpoint of a run: what answers there, and how it is started and asked."""

    model: Model
    deployment: Deployment
    kinds: tuple[ServiceKind, ...]  # what it must answer to be ready
    concurrency: int  # requests in flight per shard


class RunSpec(Frozen):
    """One suite × one model × one site."""

    format_version: int = FORMAT_VERSION
    evalhpc_version: str
    name: str
    suite: str
    site: Site
    model: Model
    deployment: Deployment
    endpoints: dict[EndpointName, Served] = {}  # beside the model under test
    harnesses: dict[str, HarnessSpec]
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)
    run: RunSettings
    python: str  # absolute path of the interpreter that runs evalhpc on the nodes
    environment: dict[str, str] = {}  # pass_through variables, as found at submission

    def canonical(self) -> bytes:
        """The bytes that the hash is taken of: sorted, compact JSON."""
        data: dict[str, Any] = self.model_dump(mode="json")
        return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()

    def digest(self) -> str:
        """SHA-256 of `canonical()`, 64 hex digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def served(self) -> dict[str, Served]:
        """Every endpoint by name; `model`, the one under test, comes first."""
        kinds = tuple(sorted({benchmark.params.endpoint for benchmark in self.benchmarks}))
        model = Served(
            model=self.model,
            deployment=self.deployment,
            kinds=kinds,
            concurrency=self.run.concurrency,
        )
        return {MODEL_ENDPOINT: model, **self.endpoints}

    @property
    def shares_deployment(self) -> bool:
        """Whether the model servers have jobs of their own, which all shards share."""
        served = self.served().values()
        return self.site.deploy.topology == "job" and any(s.model.url is None for s in served)

    @property
    def run_id(self) -> str:
        """`<name>-<first 10 digits of the hash>`: the run directory's default name."""
        return f"{self.name}-{self.digest()[:10]}"
