"""Which deployment serves a model at a site, how it is laid out there, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    Triton,
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
#: What a deployment has and no option sets.
_WORKED_OUT = frozenset({"kind", "nodes", "gpus", "reasons", "model_format", "one_sampling_config"})
#: What has a key of its own, as other things depend on it.
_ELSEWHERE = {
    "image": "container.images.SERVER=IMAGE",
    "replicas": "deploy.replicas=N",
    "threads": "deploy.threads=N",
    "context_length": "deploy.context_length=N",
    "extra_args": "deploy.extra_args=[...]",
    "rate_limit": "deploy.rate_limit=N",
}
#: Tokens of a request to Export-Deploy where nobody says; it has no default of the model's own.
_CONTEXT = 8192
#: Requests of one batch where all of them may share one: Export-Deploy's own default.
_BATCH = 32


def choose_deployment(model: Model, site: Site, *, taken: int = 0) -> Serving:
    """The server for `model` at `site`, laid out over its GPUs; ModelError, ConfigError.

    `taken`: GPUs of a node that other endpoints have.
    """
    kind = _server(model, site)
    type_ = DEPLOYMENTS[kind]
    options = _options(site, kind)
    context = _context_length(model, site, type_)
    data: dict[str, Any] = {
        "kind": kind,
        "threads": site.deploy.threads or site.resources.shard.cpus,
        "context_length": context,
        "extra_args": site.deploy.extra_args,
        "image": site.container.images.get(kind),
    }
    if issubclass(type_, Parallel):
        layout = _layout(model, site, type_, taken, options, context)
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
    if kind == "generic" and "command" not in options:
        raise ConfigError(
            f"site {site.name!r}: the server 'generic' has no command",
            cause="deploy.options.generic.command is what it runs, by bash -c",
            hint="--set 'deploy.options.generic.command=exec my-server --port $EVALHPC_PORT'",
        )
    deployment = validate(type_, data | options, f"site {site.name!r}: deploy.options.{kind}")
    _refuse_mixing(deployment, site)
    if deployment.nodes > 1 and not deployment.spans_nodes:
        raise ConfigError(
            f"the model needs {deployment.nodes} nodes, and {kind} stays on one",
            cause="; ".join(deployment.reasons),
            hint=f"choose another server: --set deploy.servers.{model.format}=vllm",
        )
    return _one_configuration(deployment)


def _refuse_mixing(deployment: Serving, site: Site) -> None:
    """Shards do not know of one another's requests, and a batch has one configuration."""
    shared = deployment.kind == "endpoint" or site.deploy.topology == "job"
    if deployment.mixes_settings and shared and site.run.shards > 1:
        raise ConfigError(
            f"{site.run.shards} shards share a server that may put their requests into one batch "
            f"(deploy.options.{deployment.kind}.max_batch_size)",
            cause="it takes the settings of a batch from its first request, for all of them: "
            "numbers would be wrong",
            hint="--shards 1; or, if it was started with batches of one: "
            f"--set deploy.options.{deployment.kind}.max_batch_size=1",
        )


def _one_configuration(deployment: Serving) -> Serving:
    """A batch takes its first request's settings for all: then never two kinds at once."""
    return deployment.model_copy(update={"one_sampling_config": deployment.mixes_settings})


def _server(model: Model, site: Site) -> str:
    servers = {**DEFAULT_SERVERS, **site.deploy.servers}
    if site.resources.shard.gpus_per_node and "hf" not in site.deploy.servers:
        servers["hf"] = "vllm"  # a server on CPUs would leave the GPUs idle
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


def _context_length(model: Model, site: Site, type_: type[Serving]) -> int | None:
    """Tokens of the longest request; None leaves it to the server, which takes the model's own.

    Export-Deploy would take 4,096 whatever the model is, and keeps a place for every token.
    """
    asked, own = site.deploy.context_length, model.context_length
    if asked is not None and own is not None and asked > own:
        raise ModelError(
            f"deploy.context_length is {asked}, and the model was made for {own} tokens",
            cause="longer texts than a model was made for give numbers that mean nothing",
            hint=f"--set deploy.context_length={own}, or less",
        )
    if asked is None and issubclass(type_, ExportDeploy):
        return min(own or _CONTEXT, _CONTEXT)
    return asked


def _layout(
    model: Model,
    site: Site,
    type_: type[Parallel],
    taken: int,
    options: Mapping[str, Any],
    context: int | None,
) -> Layout:
    shard, deploy = site.resources.shard, site.deploy
    size = None
    if model.weight_bytes:
        size = ModelSize(
            model.weight_bytes, model.layers, model.heads, model.kv_heads, model.head_size,
            sequence=context or model.context_length or 0,
        )  # fmt: skip
    if taken >= shard.gpus_per_node > 0:
        raise ConfigError(
            f"the other endpoints take all {shard.gpus_per_node} GPUs of a node: none is left for "
            f"the model",
            cause=f"they take {taken}, and GPUs are not shared",
            hint="--set resources.shard.gpus_per_node=N for more, or serve them elsewhere: "
            "--with NAME=URL,model_id=ID",
        )
    room = Room(
        nodes=shard.nodes,
        gpus=max(0, shard.gpus_per_node - taken),
        gpu_memory=_bytes(deploy.gpu_memory),
    )
    wanted = Wanted(
        tensor_parallel=options.get("tensor_parallel", deploy.tensor_parallel),
        pipeline_parallel=options.get("pipeline_parallel", deploy.pipeline_parallel),
        context_parallel=options.get("context_parallel", 1),
        # Triton has two ports of its own that nothing moves: one copy a node.
        replicas=deploy.replicas or (1 if issubclass(type_, Triton) else None),
    )
    if issubclass(type_, Triton) and wanted.replicas != 1:
        raise ConfigError(
            f"deploy.replicas is {wanted.replicas}, and a node has room for one Triton",
            cause="its ports for gRPC and metrics cannot be chosen",
            hint="use more shards instead, or megatron-ray",
        )
    spreads = issubclass(type_, MegatronRay | HfRay)
    layout = lay_out(size, room, wanted, spreads=spreads)
    if issubclass(type_, HfRay) and layout.nodes > 1:
        raise ConfigError(
            f"a copy of the model needs {layout.nodes} nodes, and hf-ray puts each on one",
            cause="; ".join(layout.reasons),
            hint=f"choose another server: --set deploy.servers.{model.format}=vllm",
        )
    if spreads and layout.gpus:  # one Ray cluster over the whole allocation
        layout = replace(layout, nodes=max(layout.nodes, shard.nodes))
    if layout.nodes > 1 and site.scheduler == "local":
        raise ConfigError(
            f"the model needs {layout.nodes} nodes, and site {site.name!r} is one machine",
            cause="; ".join(layout.reasons),
            hint="choose a Slurm site, or a smaller model",
        )
    return layout


def refuse_idle_nodes(site: Site, deployments: Iterable[Serving]) -> None:
    """Raises ConfigError where shards would hold nodes that no server of theirs can use."""
    asked, used = site.resources.shard, max((d.nodes for d in deployments if d.gpus), default=0)
    if 0 < used < asked.nodes:
        raise ConfigError(
            f"resources.shard.nodes is {asked.nodes}, and the servers of a shard use {used}",
            cause="each copy of this server is a process of its own, on the first nodes",
            hint=f"--set resources.shard.nodes={used}, and more shards "
            "(deploy.jobs with deploy.topology=job)",
        )


def _options(site: Site, kind: str) -> dict[str, Any]:
    """What the site says of this deployment; ConfigError for what it says wrong of any."""
    by_deployment: dict[str, dict[str, Any]] = {}
    for name, value in site.deploy.options.items():
        server, dot, key = name.partition(".")  # `{kind: {key: value}}`, or dotted `kind.key`
        if server not in DEPLOYMENTS:
            raise ConfigError(
                f"deploy.options: {server!r} is no deployment{did_you_mean(server, DEPLOYMENTS)}",
                hint=f"the deployments are {', '.join(DEPLOYMENTS)}",
            )
        if not dot and not isinstance(value, Mapping):
            raise ConfigError(
                f"deploy.options.{server} is {value!r}, not a section of `key: value` lines",
                hint=f"--set deploy.options.{server}.KEY=VALUE",
            )
        by_deployment.setdefault(server, {}).update({key: value} if dot else value)
    checked = {
        server: _checked(f"site {site.name!r}: deploy.options.{server}", server, options)
        for server, options in by_deployment.items()
    }
    return checked.get(kind, {})


def _checked(where: str, server: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values by themselves are right, before anything is worked out from them."""
    for key in options:
        if key in _ELSEWHERE:
            raise ConfigError(f"{where}: {key} is no option", hint=f"--set {_ELSEWHERE[key]}")
        if key in _WORKED_OUT:
            raise ConfigError(
                f"{where}: {key} is no option",
                cause="it follows from the model, the site and the sizes",
                hint="leave it out; sizes are deploy.tensor_parallel, pipeline_parallel, replicas",
            )
    needed = {"command": "true"} if server == "generic" else {}
    valid = validate(DEPLOYMENTS[server], needed | dict(options), where)
    return {key: getattr(valid, key) for key in options}


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
