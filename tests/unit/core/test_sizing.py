"""Sizing: the layout that fits, and its arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.sizing import CACHED_TOKENS, OVERHEAD, GpuNode, ModelSize, suggest
from evalhpc.errors import ModelError

H100 = GpuNode(80 * 10**9, 8)


def _llama(billions: float, layers: int, heads: int, kv_heads: int = 8) -> ModelSize:
    return ModelSize(int(billions * 2e9), layers, heads, kv_heads, 128)


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        (_llama(8, 32, 32), (1, 1, 1, 8)),
        (_llama(32, 64, 40), (2, 1, 1, 4)),
        (_llama(70, 80, 64), (4, 1, 1, 2)),
        (_llama(405, 126, 128), (8, 2, 2, 1)),
        (_llama(671, 61, 128, 128), (8, 3, 3, 1)),
        (ModelSize(int(16e9)), (1, 1, 1, 8)),
        (ModelSize(int(200e9)), (4, 1, 1, 2)),
        (ModelSize(int(900e9)), (8, 2, 2, 1)),
    ],
)
def test_layouts(model: ModelSize, layout: tuple[int, ...]) -> None:
    """Models of well-known sizes get the layout that their users know, on nodes of 8 × 80 GB."""
    found = suggest(model, H100)
    assert layout == (
        found.tensor_parallel,
        found.pipeline_parallel,
        found.nodes_per_replica,
        found.replicas_per_node,
    )


def test_heads_bound_tensor_parallel() -> None:
    """Ten heads cannot be cut in four, so stages of two GPUs are added within the node."""
    found = suggest(ModelSize(200 * 10**9, 40, 10, 2, 128), H100)
    assert (found.tensor_parallel, found.pipeline_parallel) == (2, 2)
    assert (found.nodes_per_replica, found.replicas_per_node) == (1, 2)


def test_copied_kv_heads_take_memory() -> None:
    """Where GPUs are more than KV heads, each GPU keeps one: the cache grows with them."""
    model = ModelSize(10**9, 10, 8, 2, 64)
    assert model.cache_bytes(2) == 2 * 10 * 2 * 64 * 2 * CACHED_TOKENS
    assert model.cache_bytes(8) == 4 * model.cache_bytes(2)
    assert model.allows(8)
    assert not ModelSize(1, heads=12, kv_heads=3).allows(4)


def test_arithmetic_is_told() -> None:
    """The lines show weights, cache, sum and the reasons of the layout."""
    text = "\n".join(suggest(_llama(405, 126, 128), H100).lines)
    for words in ("754.4 GiB × 1.2", "126 layers × 8 KV heads", "tensor parallel 8",
                  "63 layers each", "on 2 nodes"):  # fmt: skip
        assert words in text


def test_nothing_fits() -> None:
    """A model that one stage per layer cannot hold is an error with what to do."""
    with pytest.raises(ModelError, match="more than any layout"):
        suggest(ModelSize(10**12, 2, 8, 8, 128), GpuNode(10**9, 2))


_SIZES = st.builds(
    ModelSize,
    st.integers(1, 10**13),
    st.none() | st.integers(1, 130),
    st.none() | st.integers(1, 128),
    st.none() | st.integers(1, 64),
    st.none() | st.sampled_from([64, 128, 256]),
)


@given(_SIZES, st.builds(GpuNode, st.integers(10**9, 2 * 10**11), st.integers(1, 16)))
def test_a_suggestion_fits(model: ModelSize, node: GpuNode) -> None:
    """Every suggestion has the memory, keeps a stage within a node and cuts heads evenly."""
    try:
        found = suggest(model, node)
    except ModelError:
        return
    width, stages = found.tensor_parallel, found.pipeline_parallel
    assert int(model.weight_bytes * OVERHEAD) <= found.gpus_per_replica * node.gpu_memory
    assert model.needs(width) <= found.gpus_per_replica * node.gpu_memory
    assert width <= node.gpus
    assert width & (width - 1) == 0
    assert model.allows(width)
    fullest = model.needs(width) * model.largest_share(stages)
    assert stages == 1 or fullest <= width * node.gpu_memory
    assert stages <= (model.layers or stages)
    used = found.gpus_per_replica * found.replicas_per_node
    assert used <= node.gpus * found.nodes_per_replica
    if stages == 1 and width > 1 and model.allows(width // 2):
        assert model.needs(width // 2) > width // 2 * node.gpu_memory
