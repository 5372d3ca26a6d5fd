"""Models: what a checkpoint is, and which deployment serves it at a site."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from evalhpc.config.layers import deep_merge
from evalhpc.config.validation import validate
from evalhpc.core.sizing import GpuNode, ModelSize, suggest
from evalhpc.deploy.inspection import Inspection, demo_models, inspect_model, resolve_model
from evalhpc.errors import ConfigError, ModelError
from evalhpc.models.checkpoint import Deployment, Model
from evalhpc.models.site import DeployDefaults, Site
from evalhpc.models.suite import EndpointWish

#: What serves a format where the site does not say otherwise: the CPU servers.
DEFAULT_SERVERS = {"hf": "hf", "gguf": "llamacpp", "endpoint": "endpoint"}
_KINDS = get_args(Deployment.model_fields["kind"].annotation)


def inspect_checkpoint(name: str, node: GpuNode | None = None) -> dict[str, Any]:
    """`evalhpc model inspect`: property → value; `sizing` for nodes of this kind, where given."""
    demo = demo_models()
    path = Path(resolve_model(name).path or name) if name in demo else Path(name)
    found = inspect_model(path)
    sizing = {} if node is None else {"sizing": _sizing(found, node)}
    return {**asdict(found), **sizing}


def _sizing(found: Inspection, node: GpuNode) -> dict[str, Any]:
    if not found.weight_bytes:
        raise ModelError(
            f"how much memory {found.path} needs is not known",
            cause=f"a checkpoint of format {found.format!r} does not say how large its weights are",
            hint="inspect the base model, or convert the checkpoint first",
        )
    size = ModelSize(found.weight_bytes, found.layers, found.heads, found.kv_heads, found.head_size)
    sizing = suggest(size, node)
    return {**asdict(sizing), "gpus_per_replica": sizing.gpus_per_replica}


def site_for(wish: EndpointWish, site: Site, name: str) -> Site:
    """The site with the `deploy` section that holds for this endpoint."""
    data = deep_merge(site.deploy.model_dump(), wish.deploy)
    deploy = validate(DeployDefaults, data, f"endpoints.{name}.deploy")
    return site.model_copy(update={"deploy": deploy})


def choose_deployment(model: Model, site: Site) -> Deployment:
    """The server for `model` at `site`, with the site's settings; ModelError if there is none."""
    servers = {**DEFAULT_SERVERS, **site.deploy.servers}
    kind = servers.get(model.format)
    if kind is None:
        raise ModelError(
            f"nothing here serves a checkpoint of format {model.format!r}",
            cause="this version deploys Hugging Face and GGUF checkpoints, and existing endpoints",
            hint="start the server yourself, then: evalhpc submit --endpoint URL --model-id ID",
        )
    if kind not in _KINDS:
        raise ConfigError(
            f"site {site.name!r}: deploy.servers.{model.format} is {kind!r}",
            cause=f"the deployments are {', '.join(_KINDS)}",
            hint=f"evalhpc site show {site.name}",
        )
    return Deployment(
        kind=kind,
        threads=site.deploy.threads or site.resources.shard.cpus,
        context_length=site.deploy.context_length,
        tensor_parallel=site.deploy.tensor_parallel,
        extra_args=site.deploy.extra_args,
        image=site.container.images.get(kind),
    )
