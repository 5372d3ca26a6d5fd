"""Which deployment serves a model at a site, how it is laid out there, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evalhpc.config.layers import deep_merge
from evalhpc.config.schema import did_you_mean
from evalhpc.config.validation import validate
from evalhpc.core.layout import Layout, Room, Wanted, lay_out
from evalhpc.core.sizing import GpuNode, ModelSize
from evalhpc.errors import ConfigError, ModelError
from evalhpc.models.checkpoint import Model
from evalhpc.models.deployment import (
    DEPLOYMENTS,
    Existing,
    ExportDeploy,
    HfRay,
    MegatronRay,
    Parallel,
    Serving,
)
from evalhpc.models.site import DeployDefaults, Site
from evalhpc.models.suite import EndpointWish

#: What serves a format where the site does not say otherwise.
DEFAULT_SERVERS = {
    "hf": "hf",
    "gguf": "llamacpp",
    "megatron-bridge": "megatron-ray",
    "megatron-dist": "megatron-ray",
    "nemo2": "megatron-ray",
    "endpoint": "endpoint",
}
_START_IT_YOURSELF = "start the server yourself, then: evalhpc submit --endpoint URL --model-id ID"
_UNSERVED = {
    "hf-peft": "merge the adapter into its base model first, or serve both yourself: --endpoint",
    "fsdp-dcp": "convert it to Hugging Face or Megatron format with the tool that trained it",
}
#: Requests of one batch where all of them may share one: Export-Deploy's own default.
_BATCH = 32


def choose_deployment(model: Model, site: Site, *, taken: int = 0) -> Serving:
    """The server for `model` at `site`, laid out over its GPUs; ModelError, ConfigError.

    `taken`: GPUs of a node that other endpoints have.
    """
    kind = _server(model, site)
    type_ = DEPLOYMENTS[kind]
    options = _options(site.deploy.options, kind)
    data: dict[str, Any] = {
        "kind": kind,
        "threads": site.deploy.threads or site.resources.shard.cpus,
        "context_length": site.deploy.context_length,
        "extra_args": site.deploy.extra_args,
        "image": site.container.images.get(kind),
    }
    if issubclass(type_, Parallel):
        layout = _layout(model, site, type_, taken, options)
        data |= {
            "tensor_parallel": layout.tensor_parallel,
            "pipeline_parallel": layout.pipeline_parallel,
            "nodes": layout.nodes,
            "gpus": layout.gpus,
            "replicas": layout.replicas,
            "reasons": layout.reasons,
        }
    elif site.deploy.replicas:
        data["replicas"] = site.deploy.replicas
    if issubclass(type_, ExportDeploy):
        data["model_format"] = model.format
        # A worker keeps unlike requests apart, but knows nothing of other shards' requests.
        mixed = site.deploy.topology == "job" and site.run.shards > 1
        data["max_batch_size"] = 1 if mixed else _BATCH
    if issubclass(type_, Existing):
        data["rate_limit"] = site.deploy.rate_limit
    deployment = validate(type_, data | options, f"site {site.name!r}: deploy.options.{kind}")
    if deployment.nodes > 1 and not deployment.spans_nodes:
        raise ConfigError(
            f"the model needs {deployment.nodes} nodes, and {kind} stays on one",
            cause="; ".join(deployment.reasons),
            hint=f"choose another server: --set deploy.servers.{model.format}=vllm",
        )
    return _one_configuration(deployment)


def _one_configuration(deployment: Serving) -> Serving:
    """A batch takes its first request's settings for all: then never two kinds at once."""
    if not isinstance(deployment, ExportDeploy):
        return deployment
    mixed = deployment.max_batch_size > 1
    return deployment.model_copy(update={"one_sampling_config": mixed})


def _server(model: Model, site: Site) -> str:
    servers = {**DEFAULT_SERVERS, **site.deploy.servers}
    kind = servers.get(model.format)
    if kind is None:
        raise ModelError(
            f"nothing here serves a checkpoint of format {model.format!r}",
            cause=f"there are servers for {', '.join(sorted(servers))}",
            hint=_UNSERVED.get(model.format, _START_IT_YOURSELF),
        )
    if kind not in DEPLOYMENTS:
        raise ConfigError(
            f"site {site.name!r}: deploy.servers.{model.format} is {kind!r}",
            cause=f"the deployments are {', '.join(DEPLOYMENTS)}",
            hint=f"evalhpc site show {site.name}",
        )
    if (kind == "endpoint") != (model.url is not None):
        raise ConfigError(
            f"site {site.name!r}: deploy.servers.{model.format} is {kind!r}",
            cause="an endpoint that is up needs no server, and a checkpoint needs one",
            hint=f"the deployments are {', '.join(DEPLOYMENTS)}",
        )
    return kind


def _layout(
    model: Model, site: Site, type_: type[Parallel], taken: int, options: Mapping[str, Any]
) -> Layout:
    shard, deploy = site.resources.shard, site.deploy
    size = None
    if model.weight_bytes:
        size = ModelSize(
            model.weight_bytes, model.layers, model.heads, model.kv_heads, model.head_size
        )
    room = Room(
        nodes=shard.nodes,
        gpus=max(0, shard.gpus_per_node - taken),
        gpu_memory=_bytes(deploy.gpu_memory),
    )
    context = options.get("context_parallel", 1)
    wanted = Wanted(
        tensor_parallel=options.get("tensor_parallel", deploy.tensor_parallel),
        pipeline_parallel=options.get("pipeline_parallel", deploy.pipeline_parallel),
        context_parallel=context if isinstance(context, int) and context > 0 else 1,
        replicas=deploy.replicas,
    )
    spreads = issubclass(type_, MegatronRay | HfRay)
    layout = lay_out(size, room, wanted, spreads=spreads)
    if spreads and layout.gpus:  # one Ray cluster over the whole allocation
        layout = replace(layout, nodes=max(layout.nodes, shard.nodes))
    if layout.nodes > 1 and site.scheduler == "local":
        raise ConfigError(
            f"the model needs {layout.nodes} nodes, and site {site.name!r} is one machine",
            cause="; ".join(layout.reasons),
            hint="choose a Slurm site, or a smaller model",
        )
    return layout


def _options(options: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What the site says of this deployment: `{kind: {key: value}}`, or dotted `kind.key`."""
    for name in options:
        if name.partition(".")[0] not in DEPLOYMENTS:
            raise ConfigError(
                f"deploy.options: {name!r} is no deployment"
                f"{did_you_mean(name.partition('.')[0], DEPLOYMENTS)}",
                hint=f"the deployments are {', '.join(DEPLOYMENTS)}",
            )
    nested = options.get(kind, {})
    if not isinstance(nested, Mapping):
        raise ConfigError(
            f"deploy.options.{kind} is {nested!r}, not a section of `key: value` lines",
            hint=f"--set deploy.options.{kind}.KEY=VALUE",
        )
    dotted = {
        name.partition(".")[2]: value
        for name, value in options.items()
        if name.startswith(f"{kind}.")
    }
    return {**nested, **dotted}


def node_of(site: Site) -> GpuNode | None:
    """The GPUs of the site's nodes; None where it does not say how much memory they have."""
    memory = _bytes(site.deploy.gpu_memory)
    gpus = site.resources.shard.gpus_per_node
    return GpuNode(memory, gpus) if memory and gpus else None


def _bytes(memory: str | None) -> int | None:
    """Bytes of `80G` as GPUs are sold: 80·10⁹, a little less than they have."""
    if memory is None:
        return None
    power = " KMGT".find(memory[-1])
    return int(memory[:-1]) * 1000**power if power > 0 else int(memory) * 1000**2


def site_for(wish: EndpointWish, site: Site, name: str) -> Site:
    """The site with the `deploy` section that holds for this endpoint."""
    own = {"tensor_parallel": None, "pipeline_parallel": None, "replicas": 1, "rate_limit": None}
    data = deep_merge(site.deploy.model_dump() | own, wish.deploy)
    deploy = validate(DeployDefaults, data, f"endpoints.{name}.deploy")
    return site.model_copy(update={"deploy": deploy})
