"""When shards that failed say that all others would fail as well, and when it is a node."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.common_fault import ALIKE, Death, bad_nodes, common_fault


def death(shard: int, node: str, what: str = "", code: int = 7) -> Death:
    """A server that did not start, on a port and as a process of its own."""
    return Death(shard, node, code, what or f"http://127.0.0.1:{4000 + shard} ended on {node}")


def test_three_that_fail_alike_are_enough() -> None:
    """Ports and nodes differ, the cause is one; it is named with shards and nodes."""
    deaths = [death(2, "n2"), death(0, "n1"), death(1, "n1")]
    fault = common_fault(deaths, shards=12)
    assert fault is not None
    assert (fault.shards, fault.nodes) == ((0, 1, 2), ("n1", "n2"))
    assert fault.death == deaths[0]
    assert "3 shards failed alike on n1, n2" in str(fault)


@pytest.mark.parametrize(
    ("deaths", "shards", "futile"),
    [
        ([], 12, False),
        ([death(0, "n1"), death(1, "n2")], 12, False),
        ([death(0, "n1"), death(1, "n2")], 2, True),
        ([death(0, "n1"), death(0, "n2"), death(1, "n2")], 12, False),
        ([death(0, "n1"), death(1, "n2"), death(2, "n2", code=6)], 12, False),
        ([death(0, "n1"), death(1, "n2"), death(2, "n2", "no space")], 12, False),
    ],
)
def test_fewer_or_other_failures_are_not(deaths: list[Death], shards: int, futile: bool) -> None:
    """Two of twelve, two lives of one shard, or two causes: the next shard may do better."""
    assert (common_fault(deaths, shards=shards) is not None) == futile


def test_a_node_that_takes_one_task_after_another_is_not_everybody() -> None:
    """While shards on other nodes load their models, one node's failures prove nothing."""
    deaths = [death(shard, "n1") for shard in range(9)]
    assert common_fault(deaths, shards=12, other_nodes={"n1", "n2"}) is None
    assert common_fault([*deaths, death(9, "n2")], shards=12, other_nodes={"n3"}) is not None
    assert common_fault(deaths, shards=12, other_nodes={"n1"}) is not None
    assert len(deaths) > ALIKE


NODES = st.sampled_from(["n1", "n2", "n3", "n4"])


@given(st.lists(NODES), st.frozensets(NODES), st.integers(1, 4))
def test_enough_nodes_are_left(failures: list[str], known: frozenset[str], needed: int) -> None:
    """Only nodes that failed twice are left out, and never so many that a shard has no place."""
    bad = bad_nodes(failures, known, needed)
    assert all(failures.count(node) >= 2 for node in bad)
    if bad:
        assert len(known - set(bad)) >= needed
    twice = {node for node in failures if failures.count(node) >= 2}
    if len(known - twice) >= needed:
        assert set(bad) == twice
