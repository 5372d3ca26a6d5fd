"""How many GPUs and nodes a replica of a model needs, with the arithmetic in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from evalhpc.errors import ModelError

#: Weights, and a fifth more for activations, CUDA graphs and the framework itself.
OVERHEAD = 1.2
#: Tokens whose keys and values have a place, at least: eight sequences of 4,096.
CACHED_TOKENS = 8 * 4096
_CACHE_WIDTH = 2  # bytes of an element of the cache, bf16
_UNITS = {30: "GiB", 20: "MiB", 10: "KiB"}  # by power of two
_MAX_STAGES = 64  # where the number of layers is not known


@dataclass(frozen=True)
class ModelSize:
    """What of a model counts for memory; None where it is not known."""

    weight_bytes: int
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None  # elements of one head
    sequence: int = 0  # tokens of the longest one that must fit

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values have a place."""
        return max(CACHED_TOKENS, self.sequence)

    def cache_bytes(self, tensor_parallel: int) -> int:
        """Bytes of the cached tokens over all GPUs; KV heads are copied where GPUs are more."""
        if self.layers and self.kv_heads and self.head_size:
            heads = max(self.kv_heads, tensor_parallel)
            return 2 * self.layers * heads * self.head_size * _CACHE_WIDTH * self.cached_tokens
        return self.weight_bytes // 10  # a guess where the shape is not known

    def needs(self, tensor_parallel: int) -> int:
        """Bytes of GPU memory that one replica takes."""
        return int(self.weight_bytes * OVERHEAD) + self.cache_bytes(tensor_parallel)

    def largest_share(self, stages: int) -> Fraction:
        """The part of all layers that the fullest of `stages` holds."""
        if not self.layers:
            return Fraction(1, stages)
        return Fraction(-(-self.layers // stages), self.layers)

    def allows(self, tensor_parallel: int) -> bool:
        """Whether heads can be cut, and KV heads cut or copied, for so many GPUs."""
        heads, groups = self.heads or tensor_parallel, self.kv_heads or tensor_parallel
        return heads % tensor_parallel == 0 and (
            groups % tensor_parallel == 0 or tensor_parallel % groups == 0
        )


@dataclass(frozen=True)
class GpuNode:
    """A node: `gpu_memory` bytes on each of its GPUs."""

    gpu_memory: int
    gpus: int


@dataclass(frozen=True)
class Sizing:
    """One replica's layout, and how many of them share a node (1 where a replica spans nodes)."""

    tensor_parallel: int
    pipeline_parallel: int
    nodes_per_replica: int
    replicas_per_node: int
    lines: tuple[str, ...]  # the arithmetic

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of one replica."""
        return self.tensor_parallel * self.pipeline_parallel


def suggest(model: ModelSize, node: GpuNode) -> Sizing:
    """The fewest GPUs for a replica: tensor parallel first, then pipeline stages of whole layers.

    Raises ModelError when no layout fits.
    """
    if model.weight_bytes <= 0 or node.gpu_memory <= 0 or node.gpus <= 0:
        raise ValueError("sizes are positive")
    allowed = [width for width in _powers(node.gpus) if model.allows(width)]
    for width in allowed:
        if model.needs(width) <= width * node.gpu_memory:
            return _sizing(model, node, width, 1)
    width = allowed[-1]
    for stages in range(2, (model.layers or _MAX_STAGES) + 1):
        if model.needs(width) * model.largest_share(stages) <= width * node.gpu_memory:
            return _sizing(model, node, width, stages)
    raise ModelError(
        f"the model needs {_size(model.needs(width))}, more than any layout of these GPUs has",
        cause=f"{width} GPUs a stage, and at most one stage per layer ({model.layers or '?'})",
        hint="use GPUs with more memory, or quantised weights",
    )


def _powers(most: int) -> Iterator[int]:
    power = 1
    while power <= most:
        yield power
        power *= 2


def _sizing(model: ModelSize, node: GpuNode, width: int, stages: int) -> Sizing:
    per_node = node.gpus // width  # stages, as a stage stays within a node
    nodes = -(-stages // per_node)
    replicas = per_node // stages if nodes == 1 else 1
    return Sizing(width, stages, nodes, replicas, tuple(_lines(model, node, width, stages, nodes)))


def _lines(model: ModelSize, node: GpuNode, width: int, stages: int, nodes: int) -> Iterator[str]:
    weights, cache = model.weight_bytes, model.cache_bytes(width)
    yield f"weights {_size(weights)} × {OVERHEAD} = {_size(int(weights * OVERHEAD))}"
    if model.layers and model.kv_heads and model.head_size:
        heads = max(model.kv_heads, width)
        yield (
            f"KV cache 2 × {model.layers} layers × {heads} KV heads × {model.head_size} × "
            f"{_CACHE_WIDTH} B × {model.cached_tokens} tokens = {_size(cache)}"
        )
    else:
        yield f"KV cache, shape unknown: a tenth of the weights = {_size(cache)}"
    gpus = width * stages
    total = model.needs(width)
    yield (
        f"one replica {_size(total)}; {gpus} × {_size(node.gpu_memory)} = "
        f"{_size(gpus * node.gpu_memory)}"
    )
    yield f"tensor parallel {width}: {_why_width(model, node)}"
    if stages > 1:
        yield f"pipeline parallel {stages}: {width} GPUs are too few; {_layers_each(model, stages)}"
    if nodes > 1:
        yield f"one replica on {nodes} nodes of {node.gpus} GPUs"
    else:
        yield f"{node.gpus // width // stages} replicas on a node of {node.gpus} GPUs"


def _why_width(model: ModelSize, node: GpuNode) -> str:
    heads = f"{model.heads or '?'} heads and {model.kv_heads or '?'} KV heads"
    return f"a power of two up to {node.gpus}, fit for {heads}"


def _layers_each(model: ModelSize, stages: int) -> str:
    if not model.layers:
        return "number of layers unknown"
    if model.layers % stages == 0:
        return f"{model.layers // stages} layers each"
    return (
        f"at most {-(-model.layers // stages)} layers each, as {model.layers} do not divide evenly"
    )


def _size(count: int) -> str:
    power = next((power for power in _UNITS if count >= 1 << power), 10)
    return f"{count / (1 << power):.1f} {_UNITS[power]}"
