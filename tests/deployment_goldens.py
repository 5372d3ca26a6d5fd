"""The server scripts kept in tests/golden/deployments: every server × nodes × container runtime."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any, get_args

from evalhpc.config.template_files import load_sources
from evalhpc.core.rendering import render_run
from evalhpc.models.deployment import DEPLOYMENTS
from evalhpc.models.site import Runtime
from tests.factories import make_spec
from tests.golden_variants import GOLDEN, RUN_DIR

FOLDER = GOLDEN / "deployments"
NODES = (1, 2, 4)
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
#: The scripts of this one are kept whole, of the others what differs.
BASE: Runtime = "pyxis"
#: GPUs of a node; a copy on so many nodes has them all.
_GPUS = 8

_SOURCES = load_sources(None)
_MODEL = {"model_id": "our model", "path": "/models/our model", "url": None}
_FORMATS = {"llamacpp": "gguf", "megatron-ray": "megatron-bridge", "triton": "megatron-dist"}


def cases() -> list[tuple[str, int]]:
    """(deployment, nodes) of every script: servers that stay on one node have one."""
    return [
        (kind, nodes)
        for kind in DEPLOYMENTS
        if kind != "endpoint"
        for nodes in NODES
        if nodes == 1 or _deployment(kind, 1).spans_nodes
    ]


def render(kind: str, nodes: int, runtime: Runtime) -> str:
    """The server script of one deployment."""
    image = {"apptainer": "/images/server.sif"}.get(runtime, "/images/server.sqsh")
    deployment = _deployment(kind, nodes).model_dump() | {
        "image": None if runtime == "none" else image
    }
    spec = make_spec(
        model=_MODEL | {"format": _FORMATS.get(kind, "hf")},
        deployment=deployment,
        site={
            "resources": {"shard": {"nodes": nodes, "gpus_per_node": _GPUS, "cpus": 64}},
            "container": {"runtime": runtime, "mounts": ["/datasets:/data:ro"]},
        },
    )
    text = render_run(spec, RUN_DIR, _SOURCES)["server.sh"]
    return text.replace(spec.run_id, f"{spec.name}-{'0' * 10}")


@cache
def files(kind: str, nodes: int) -> dict[str, str]:
    """File name → text of one deployment on so many nodes."""
    whole = render(kind, nodes, BASE)
    kept = {f"{nodes}-nodes.sh": whole}
    for runtime in RUNTIMES:
        if runtime != BASE:
            lines = difflib.unified_diff(
                whole.splitlines(True), render(kind, nodes, runtime).splitlines(True),
                BASE, runtime, n=0,
            )  # fmt: skip
            kept[f"{nodes}-nodes.{runtime}.diff"] = "".join(lines)
    return kept


def _deployment(kind: str, nodes: int) -> Any:
    type_ = DEPLOYMENTS[kind]
    values: dict[str, Any] = {"nodes": nodes, "extra_args": ["--its own", "$option"]}
    if kind == "generic":
        values["command"] = 'exec ./serve "$EVALHPC_MODEL" --port "$EVALHPC_PORT" "$@"'
    if "tensor_parallel" in type_.model_fields:
        values |= {"tensor_parallel": _GPUS, "pipeline_parallel": nodes, "gpus": _GPUS}
    if kind == "hf-ray":  # a copy stays on one node
        values |= {"pipeline_parallel": 1, "replicas": nodes}
    if nodes == 1:
        values["context_length"] = 8192
    return type_(**values)
