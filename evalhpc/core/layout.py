"""How a deployment is laid out over the GPUs of a site: sizes, nodes, copies, and why."""

from __future__ import annotations

from dataclasses import dataclass

from evalhpc.core.sizing import GpuNode, ModelSize, Sizing, suggest
from evalhpc.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Wanted:
    """What a user or a site says of the layout; None where they leave it to the arithmetic."""

    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    context_parallel: int = 1
    replicas: int | None = None  # copies in one allocation


@dataclass(frozen=True)
class Room:
    """What one allocation has: nodes with so many GPUs each; None for memory that nobody stated."""

    nodes: int
    gpus: int  # a node, those left by other endpoints
    gpu_memory: int | None  # bytes of one


@dataclass(frozen=True)
class Layout:
    """Where the copies of one allocation lie."""

    tensor_parallel: int
    pipeline_parallel: int
    nodes: int  # that one copy spans
    gpus: int  # of one copy on each of its nodes; 0 without GPUs
    replicas: int
    reasons: tuple[str, ...]  # the arithmetic, a line each


def lay_out(size: ModelSize | None, room: Room, wanted: Wanted, *, spreads: bool) -> Layout:
    """The layout of a model of `size` (None: unknown) in `room`.

    `spreads`: whether the server itself puts copies on all nodes of the allocation. Raises
    ModelError for sizes that do not fit the model, ConfigError for what the nodes do not have.
    """
    tensor, pipeline, reasons = _sizes(size, room, wanted)
    if size is not None and not size.allows(tensor):
        raise ModelError(
            f"tensor parallel {tensor} does not divide the model",
            cause=f"it has {size.heads or '?'} heads and {size.kv_heads or '?'} KV heads",
            hint="choose a power of two that divides both: --set deploy.tensor_parallel=N",
        )
    if size is not None and size.layers and pipeline > size.layers:
        raise ModelError(
            f"{pipeline} pipeline stages are more than the model's {size.layers} layers",
            hint=f"--set deploy.pipeline_parallel=N, at most {size.layers}",
        )
    if size is not None and room.gpus and room.gpu_memory:
        _refuse_too_large(size, room.gpu_memory, tensor, pipeline)
    if room.gpus == 0:
        return Layout(tensor, pipeline, 1, 0, wanted.replicas or 1, reasons)
    copy = tensor * pipeline * wanted.context_parallel
    nodes = _nodes(tensor * wanted.context_parallel, pipeline, room)
    fit = (room.gpus // copy) * (room.nodes if spreads else 1)
    if nodes > 1:
        fit = max(1, room.nodes // nodes) if spreads else 1
    replicas = wanted.replicas or fit
    if replicas > fit:
        raise ConfigError(
            f"{replicas} copies of {copy} GPUs do not fit in {_room(room, nodes)}",
            cause=f"{fit} fit",
            hint=f"--set deploy.replicas={fit}, or more nodes in resources.shard.nodes",
        )
    reasons += (f"{_count(replicas, 'copy', 'copies')} of {copy} GPUs on {_room(room, nodes)}",)
    return Layout(tensor, pipeline, nodes, copy // nodes, replicas, reasons)


def _refuse_too_large(size: ModelSize, gpu_memory: int, tensor: int, pipeline: int) -> None:
    need = int(size.needs(tensor) * size.largest_share(pipeline))
    if need > tensor * gpu_memory:
        raise ModelError(
            f"a stage of the model needs {need / 1e9:.1f} GB, and its {tensor} GPUs have "
            f"{tensor * gpu_memory / 1e9:.1f} GB",
            cause=f"tensor parallel {tensor}, pipeline parallel {pipeline}; weights and a fifth "
            f"more, and a KV cache of {size.cached_tokens} tokens",
            hint="leave both out, and they are worked out; a shorter deploy.context_length; "
            "or, for weights that are quantised as they load, --set deploy.gpu_memory=null",
        )


def _sizes(size: ModelSize | None, room: Room, wanted: Wanted) -> tuple[int, int, tuple[str, ...]]:
    """(tensor parallel, pipeline parallel, why): what is stated, else what the memory asks for."""
    if wanted.tensor_parallel or wanted.pipeline_parallel:
        stated = (wanted.tensor_parallel or 1, wanted.pipeline_parallel or 1)
        return *stated, (f"tensor parallel {stated[0]}, pipeline parallel {stated[1]}: as set",)
    if size is None or room.gpu_memory is None or room.gpus == 0:
        missing = "the model's size" if size is None else "deploy.gpu_memory"
        why = f"tensor parallel 1: {missing} is not known" if room.gpus else "no GPUs"
        return 1, 1, (why,)
    sizing: Sizing = suggest(size, GpuNode(room.gpu_memory, room.gpus))
    tensor, nodes = sizing.tensor_parallel, sizing.nodes_per_replica
    # Each node gets as many stages as the others.
    stages = -(-sizing.pipeline_parallel // nodes) * nodes
    return tensor, stages, sizing.lines[:-1]


def _nodes(width: int, stages: int, room: Room) -> int:
    """Nodes of a copy with stages of `width` GPUs each, as many on each node as on the others."""
    if width > room.gpus:
        if width % room.gpus:
            raise ConfigError(
                f"{width} GPUs for a stage are more than a node has left ({room.gpus})",
                cause="tensor x context parallel is no multiple of it either",
                hint=f"--set deploy.tensor_parallel={room.gpus}, and pipeline_parallel for more",
            )
        return stages * width // room.gpus
    nodes = -(-stages // (room.gpus // width))
    if stages % nodes:
        raise ConfigError(
            f"{stages} pipeline stages of {width} GPUs do not divide evenly over {nodes} nodes",
            cause=f"a node has {room.gpus} GPUs",
            hint=f"--set deploy.pipeline_parallel={-(-stages // nodes) * nodes}",
        )
    return nodes


def _room(room: Room, nodes: int) -> str:
    return f"{_count(max(nodes, room.nodes), 'node', 'nodes')} of {room.gpus} GPUs"


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
