"""Which model answers at each endpoint of a run: the one under test, and those beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from evalhpc.deploy.inspection import find_model
from evalhpc.deploy.readiness import probe_endpoint
from evalhpc.errors import UsageError
from evalhpc.http.origin import Origin
from evalhpc.models.checkpoint import Model
from evalhpc.models.runspec import Served
from evalhpc.models.site import Site
from evalhpc.models.suite import Benchmark, EndpointWish, ServiceKind, Suite
from evalhpc.workflow.submit.choice import choose_deployment, site_for
from evalhpc.workflow.submit.wish import Wish, checked_name, parse_others

DEMO_MODEL = "smollm2-135m"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def find_subject(
    wish: Wish, benchmarks: Iterable[Benchmark], environ: Mapping[str, str]
) -> tuple[Model, tuple[str, ...]]:
    """The model under test, and warnings about its checkpoint; UsageError, ModelError."""
    if wish.endpoint is None:
        if wish.api_key_env:
            raise UsageError("--api-key-env belongs to --endpoint", hint="add --endpoint URL")
        return find_model(wish.model or DEMO_MODEL, model_id=wish.model_id)
    if wish.model:
        raise UsageError("--model and --endpoint are both given", hint="keep one of them")
    if not wish.model_id:
        raise UsageError(
            "--endpoint needs --model-id, the name that requests carry",
            hint=f"the server lists its names: curl {wish.endpoint.rstrip('/')}/models",
        )
    kinds: list[ServiceKind] = sorted({benchmark.params.endpoint for benchmark in benchmarks})
    return _endpoint(wish.endpoint, wish.model_id, wish.api_key_env, kinds, environ), ()


def find_endpoints(
    suite: Suite, others: Iterable[str], site: Site, environ: Mapping[str, str]
) -> tuple[dict[str, Served], tuple[str, ...]]:
    """The endpoints beside the model under test, by name, and warnings about their checkpoints.

    What `--with` says of a name replaces what the suite says of it.
    """
    served: dict[str, Served] = {}
    warnings: list[str] = []
    taken = 0  # GPUs of a node that those before have
    for name, wish in {**suite.endpoints, **parse_others(others)}.items():
        model, more = _other_model(checked_name(name), wish, environ)
        there = site_for(wish, site, name)
        deployment = choose_deployment(model, there, taken=taken)
        taken += deployment.taken_gpus
        served[name] = Served(
            model=model,
            deployment=deployment,
            kinds=(wish.kind,),
            concurrency=wish.concurrency or site.run.concurrency,
        )
        warnings += [f"{name}: {warning}" for warning in more]
    return served, tuple(warnings)


def _other_model(
    name: str, wish: EndpointWish, environ: Mapping[str, str]
) -> tuple[Model, tuple[str, ...]]:
    if (wish.model is None) == (wish.url is None):
        raise UsageError(
            f"endpoint {name!r}: either a checkpoint (model) or a server (url) is needed",
            cause="both are given" if wish.model else "neither is given",
            hint=f"--with {name}=/path/to/checkpoint, or {name}=https://HOST/v1,model_id=NAME",
        )
    if wish.url is None:
        if wish.api_key_env:
            raise UsageError(
                f"endpoint {name!r}: api_key_env belongs to a url", hint="leave it out"
            )
        return find_model(wish.model or "", model_id=wish.model_id)
    if not wish.model_id:
        raise UsageError(
            f"endpoint {name!r} needs model_id, the name that its requests carry",
            hint=f"the server lists its names: curl {wish.url.rstrip('/')}/models",
        )
    return _endpoint(wish.url, wish.model_id, wish.api_key_env, [wish.kind], environ), ()


def _endpoint(
    endpoint: str,
    model_id: str,
    key_name: str | None,
    kinds: Iterable[ServiceKind],
    environ: Mapping[str, str],
) -> Model:
    Origin.parse(endpoint)
    url = endpoint.rstrip("/")
    if not url.endswith("/v1"):
        url += "/v1"
    if key_name and not _VARIABLE.fullmatch(key_name):
        # Not shown: most likely it is the key itself.
        raise UsageError(
            "--api-key-env takes the name of an environment variable, and this is none",
            cause="the key itself was given",
            hint="read -rs API_KEY && export API_KEY, then: --api-key-env API_KEY",
        )
    token = environ.get(key_name) if key_name else None
    if key_name and not token:
        raise UsageError(
            f"--api-key-env {key_name}: this variable is not set",
            hint=f"read -rs {key_name} && export {key_name}",
        )
    for kind in kinds:
        probe_endpoint(url, model_id, token, kind=kind, token_variable=key_name or "API_KEY")
    return Model(model_id=model_id, format="endpoint", url=url, api_key_env=key_name)
