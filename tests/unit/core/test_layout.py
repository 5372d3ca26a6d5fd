"""Layouts: whatever is asked for, no GPU is used twice and none that is not there."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evalhpc.core.layout import Layout, Room, Wanted, lay_out
from evalhpc.core.sizing import ModelSize
from evalhpc.errors import ConfigError, ModelError

GIB = 1 << 30
SIZES = st.builds(
    ModelSize,
    weight_bytes=st.integers(1, 2000 * GIB),
    layers=st.integers(1, 128),
    heads=st.sampled_from([8, 10, 12, 32, 40, 64, 128]),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    head_size=st.sampled_from([64, 128]),
)
ROOMS = st.builds(
    Room,
    nodes=st.integers(1, 4),
    gpus=st.integers(1, 9),
    gpu_memory=st.sampled_from([None, 16 * GIB, 80 * GIB]),
)
SOME = st.none() | st.integers(1, 16)
WANTED = st.builds(
    Wanted,
    tensor_parallel=SOME,
    pipeline_parallel=SOME,
    context_parallel=st.integers(1, 3),
    replicas=st.none() | st.integers(1, 9),
)


def laid_out(size: ModelSize | None, room: Room, wanted: Wanted, spreads: bool) -> Layout:
    try:
        return lay_out(size, room, wanted, spreads=spreads)
    except (ConfigError, ModelError):
        assume(False)
        raise


@given(st.none() | SIZES, ROOMS, WANTED, st.booleans())
def test_copies_fit_and_have_all_their_gpus(
    size: ModelSize | None, room: Room, wanted: Wanted, spreads: bool
) -> None:
    """A copy has tensor × pipeline × context GPUs, as many on each node; all fit."""
    found = laid_out(size, room, wanted, spreads)
    copy = found.tensor_parallel * found.pipeline_parallel * wanted.context_parallel
    assert found.gpus * found.nodes == copy
    assert found.gpus <= room.gpus
    nodes = max(room.nodes, found.nodes) if spreads else found.nodes
    per_node = room.gpus // found.gpus if found.nodes == 1 else 1
    assert 1 <= found.replicas <= per_node * (nodes // found.nodes)
    assert wanted.replicas in (None, found.replicas)


@given(SIZES, ROOMS, WANTED, st.booleans())
def test_tensor_parallel_divides_the_heads_and_stages_the_nodes(
    size: ModelSize, room: Room, wanted: Wanted, spreads: bool
) -> None:
    """What cannot be cut is not; each node of a copy has as many stages as the others."""
    found = laid_out(size, room, wanted, spreads)
    assert size.allows(found.tensor_parallel)
    assert size.layers
    assert found.pipeline_parallel <= size.layers
    if found.nodes > 1 and found.tensor_parallel * wanted.context_parallel <= room.gpus:
        assert found.pipeline_parallel % found.nodes == 0


@pytest.mark.parametrize(
    ("wanted", "room", "said"),
    [
        (Wanted(tensor_parallel=3), Room(1, 8, None), "tensor parallel 3 does not divide"),
        (Wanted(tensor_parallel=12), Room(1, 8, None), "does not divide the model"),
        (Wanted(tensor_parallel=16), Room(1, 7, None), "more than a node has left"),
        (Wanted(tensor_parallel=4, pipeline_parallel=5), Room(1, 8, None), "evenly over 3 nodes"),
        (Wanted(tensor_parallel=1, pipeline_parallel=99), Room(1, 8, None), "32 layers"),
        (Wanted(tensor_parallel=4, replicas=3), Room(1, 8, None), "3 copies of 4 GPUs do not fit"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_next_step(
    wanted: Wanted, room: Room, said: str
) -> None:
    """Before submission, and each by its own reason."""
    size = ModelSize(16 * GIB, 32, 64, 8, 128)
    with pytest.raises((ConfigError, ModelError)) as caught:
        lay_out(size, room, wanted, spreads=False)
    assert said in caught.value.what
    assert "--set deploy." in caught.value.hint


def test_without_gpus_nothing_is_laid_out() -> None:
    """A site of CPUs serves what is stated, on one node."""
    found = lay_out(None, Room(2, 0, None), Wanted(replicas=3), spreads=True)
    assert (found.nodes, found.gpus, found.replicas) == (1, 0, 3)
