"""`evalhpc model inspect`: a table or JSON, and a layout where GPUs are given."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from evalhpc.cli.inspect import model
from tests.models.checkpoints import write_dist


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(model, ["inspect", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_json(tmp_path: Path) -> None:
    """JSON has every property, and the layout only when it is asked for."""
    folder = str(write_dist(tmp_path / "iter_0000010"))
    plain = json.loads(_run(folder, "--json"))
    assert (plain["format"], plain["kv_heads"], plain["tensor_parallel"]) == ("megatron-dist", 4, 2)
    assert "sizing" not in plain
    sizing = json.loads(_run(folder, "--json", "--gpu-memory", "80G"))["sizing"]
    assert (sizing["tensor_parallel"], sizing["replicas_per_node"]) == (1, 8)
    assert sizing["lines"]


def test_table(tmp_path: Path) -> None:
    """The table comes first, the arithmetic of the layout after it."""
    folder = str(write_dist(tmp_path / "iter_0000010"))
    shown = _run(folder, "--gpu-memory", "80Gi", "--gpus-per-node", "4")
    assert "megatron-dist" in shown
    assert shown.rstrip().endswith("4 replicas on a node of 4 GPUs")
    assert "= 80.0 GiB" in shown


@pytest.mark.parametrize("amount", ["80", "G", "0G", "80X", "-1G"])
def test_bad_memory(amount: str, tmp_path: Path) -> None:
    """An amount without a unit, or of nothing, is refused with an example."""
    result = CliRunner().invoke(model, ["inspect", str(tmp_path), f"--gpu-memory={amount}"])
    assert result.exit_code == 2
    assert "80G" in result.output
