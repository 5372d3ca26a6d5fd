"""Models: what a checkpoint is, and how much of a site it would take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evalhpc.config.sites import load_site
from evalhpc.config.validation import validate
from evalhpc.core.sizing import GpuNode, ModelSize, suggest
from evalhpc.deploy.inspection import Inspection, demo_models, inspect_model, resolve_model
from evalhpc.errors import ConfigError, ModelError
from evalhpc.models.site import Site
from evalhpc.workflow.submit.choice import node_of


def gpus_of_site(name: str, environ: Mapping[str, str]) -> GpuNode:
    """The GPUs of a node at this site; raises ConfigError where its file does not say."""
    layer = load_site(name, environ)
    node = node_of(validate(Site, layer.data, str(layer.path)))
    if node is None:
        raise ConfigError(
            f"site {name!r} does not say what GPUs its nodes have",
            cause="deploy.gpu_memory or resources.shard.gpus_per_node is not set there",
            hint="evalhpc model inspect CKPT --gpu-memory 80G --gpus-per-node 8",
        )
    return node


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
