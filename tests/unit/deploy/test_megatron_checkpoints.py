"""Megatron, NeMo and FSDP checkpoints: shape and parallelism from real indices, and what lacks."""

import argparse
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.deploy import safe_pickle
from evalhpc.deploy.dist_index import check_parts, read_index
from evalhpc.deploy.inspection import Inspection, inspect_model, resolve_model
from evalhpc.errors import ModelError
from tests.models.checkpoints import DIST_DATA, write_dist

#: 2 embeddings of 256 × 64; 2 layers of norms, qkv, proj, fc1 and fc2; the last norm.
PARAMETERS = 2 * 256 * 64 + 2 * (64 + 128 * 64 + 64 * 64 + 64 + 256 * 64 + 64 * 128) + 64


class _MakesFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _torch_save(path: Path, value: Any) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("common/data.pkl", pickle.dumps(value, 2))


def _megatron(root: Path, source: str = "megatron-tp2") -> Path:
    folder = write_dist(root / "iter_0000010", source=source)
    (root / "latest_checkpointed_iteration.txt").write_text("10")
    if source == "megatron-common-state":
        with (folder / "__0_0.distcp").open("r+b") as stream:
            stream.seek(5044)
            stream.write((DIST_DATA / source / "common_state.bin").read_bytes())
        os.utime(folder / "__0_0.distcp", (0, 0))
    return folder


def _shape(found: Inspection) -> tuple[int | None, ...]:
    return (found.layers, found.hidden_size, found.heads, found.kv_heads, found.head_size,
            found.vocabulary, found.context_length)  # fmt: skip


@pytest.mark.parametrize(
    ("source", "tensor_parallel"),
    [("megatron-tp1", 1), ("megatron-tp2", 2), ("megatron-common-state", 1)],
)
def test_megatron_lm(source: str, tensor_parallel: int, tmp_path: Path) -> None:
    """A checkpoint of Megatron-LM tells its shape, parameters, parallelism and tokenizer."""
    _megatron(tmp_path, source)
    found = inspect_model(tmp_path)
    assert (found.format, found.iteration) == ("megatron-dist", 10)
    assert _shape(found) == (2, 64, 8, 4, 8, 256, 128)
    assert (found.parameters, found.weight_bytes) == (PARAMETERS, 2 * PARAMETERS)
    assert (found.tensor_parallel, found.pipeline_parallel) == (tensor_parallel, 1)
    assert (found.dtype, found.tokenizer_name) == ("bfloat16", "/models/toy-tokenizer")


@pytest.mark.parametrize(("source", "pieces"), [("megatron-tp1", 1), ("megatron-tp2", 2)])
def test_without_arguments(source: str, pieces: int, tmp_path: Path) -> None:
    """Where no arguments were saved, the tensors tell layers, sizes and tensor parallelism."""
    folder = _megatron(tmp_path, source)
    _torch_save(folder / "common.pt", {"iteration": 10})
    found = inspect_model(folder)
    assert (found.layers, found.hidden_size, found.vocabulary) == (2, 64, 256)
    assert (found.tensor_parallel, found.heads) == (pieces, None)
    assert any("no arguments" in warning for warning in found.warnings)


def test_groups_count_only_with_grouped_queries(tmp_path: Path) -> None:
    """Megatron saves num_query_groups 1 for models without grouped queries: heads count."""
    folder = _megatron(tmp_path)
    arguments = argparse.Namespace(
        num_attention_heads=8, num_query_groups=1, group_query_attention=False
    )
    _torch_save(folder / "common.pt", {"args": arguments})
    assert inspect_model(folder).kv_heads == 8


def test_megatron_bridge(tmp_path: Path) -> None:
    """run_config.yaml gives shape, base model and tokenizer; the index counts parameters."""
    write_dist(tmp_path / "iter_0000010", bridge=True)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    found = inspect_model(tmp_path)
    assert (found.layers, found.base_model, found.tokenizer_name) == (
        4, "org/base", "org/tokenizer",
    )  # fmt: skip
    assert found.parameters == PARAMETERS
    assert any("no latest_checkpointed_iteration.txt" in text for text in found.warnings)


def test_nemo2_graph(tmp_path: Path) -> None:
    """io.json fills in what model.yaml leaves out; model.yaml wins."""
    write_dist(tmp_path / "weights")
    context = tmp_path / "context"
    context.mkdir()
    items = [
        ["Attr(name='num_attention_heads')", {"type": "leaf", "value": 8}],
        ["Attr(name='num_layers')", {"type": "leaf", "value": 3}],
        ["Attr(name='pretrained_model_name')", {"type": "leaf", "value": "org/words"}],
        ["Attr(name='other')", {"type": "ref", "key": "x"}],
    ]
    (context / "io.json").write_text(json.dumps({"objects": {"a": {"items": items}, "b": 1}}))
    (context / "model.yaml").write_text("config: {num_layers: 2}\n")
    found = inspect_model(tmp_path)
    assert (found.format, found.layers, found.heads) == ("nemo2", 2, 8)
    assert (found.tensor_parallel, found.tokenizer_name) == (2, "org/words")


def test_fsdp(tmp_path: Path) -> None:
    """A torch.distributed checkpoint without Megatron's files tells what its tensors tell."""
    folder = write_dist(tmp_path / "step-10")
    (folder / "metadata.json").unlink()
    (folder / "common.pt").unlink()
    found = inspect_model(folder)
    assert (found.format, found.parameters, found.layers) == ("fsdp-dcp", PARAMETERS, 2)


def _ranks(root: Path, *names: str) -> Path:
    for name in names:
        (root / "iter_0000005" / name).mkdir(parents=True)
        (root / "iter_0000005" / name / "model_optim_rng.pt").write_bytes(b"x")
    return root


def test_legacy(tmp_path: Path) -> None:
    """Folder names give the layout of Megatron's legacy format, and it is said not to be served."""
    root = _ranks(tmp_path, *(f"mp_rank_{t:02d}_{p:03d}" for t in range(4) for p in range(2)))
    found = inspect_model(root)
    assert (found.format, found.iteration) == ("megatron-legacy", 5)
    assert (found.tensor_parallel, found.pipeline_parallel) == (4, 2)
    assert any("convert it" in warning for warning in found.warnings)
    with pytest.raises(ModelError, match="cannot be served"):
        resolve_model(str(root))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000"), "lacks mp_rank_01_001"),
        (("mp_rank_00", "mp_rank_02"), "lacks mp_rank_01"),
        (("mp_rank_00", "mp_rank_01_000"), "lacks one layout"),
        (("mp_rank_00", "mp_rank_old"), "folders with numbers"),
    ],
)
def test_legacy_half_written(names: tuple[str, ...], text: str, tmp_path: Path) -> None:
    """A legacy checkpoint whose ranks do not fill a grid is half-written."""
    with pytest.raises(ModelError, match=text):
        inspect_model(_ranks(tmp_path, *names))


def _cut(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda m: (m / "metadata.json").unlink(), "lacks metadata.json"),
        (lambda m: (m / "common.pt").unlink(), "lacks common.pt, and common_state"),
        (lambda m: ((m / "metadata.json").unlink(), (m / "common.pt").unlink()),
         "lacks metadata.json"),
        (lambda m: (m / "__1_1.distcp").unlink(), r"lacks 1 of the 4 files .*: __1_1\.distcp"),
        (lambda m: _cut(m / "__0_1.distcp"), r"__0_1\.distcp is cut short"),
        (lambda m: _cut(m / "common.pt"), r"common\.pt is no archive"),
        (lambda m: _cut(m / ".metadata"), r"\.metadata is not read: it ends too early"),
        (lambda m: (m / ".metadata").write_bytes(b"\x80\x02}."), "is no index"),
        (lambda m: (m / "train_state.pt").write_bytes(b"x"), r"lacks run_config\.yaml"),
        (lambda m: (m / "__2_0.distcp.tmp").write_bytes(b"x"), "unfinished files"),
        (lambda m: [p.unlink() for p in m.iterdir()], "is not complete"),
    ],
)  # fmt: skip
def test_half_written(damage: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    """Each mark or part that lacks is an error that names it, with the next command."""
    damage(_megatron(tmp_path))
    with pytest.raises(ModelError, match=text) as caught:
        inspect_model(tmp_path)
    assert caught.value.cause
    assert caught.value.hint


def test_an_index_may_not_leave_the_checkpoint(tmp_path: Path) -> None:
    """File names of the index that point elsewhere are refused, not looked at."""
    folder = _megatron(tmp_path)
    index = folder / ".metadata"
    index.write_bytes(index.read_bytes().replace(b"__0_0.distcp", b"../../passwd"))
    with pytest.raises(ModelError, match="is no index"):
        inspect_model(folder)


@pytest.mark.parametrize("name", ["common.pt", ".metadata"])
def test_code_is_refused(name: str, tmp_path: Path) -> None:
    """A checkpoint that would run code on loading is an error, and nothing has run."""
    folder, proof = _megatron(tmp_path / "m"), tmp_path / "proof"
    attack = {"args": argparse.Namespace(x=_MakesFolder(proof))}
    if name == "common.pt":
        _torch_save(folder / name, attack)
    else:
        (folder / name).write_bytes(pickle.dumps(attack))
    with pytest.raises(ModelError, match=r"names 'posix\.mkdir'"):
        inspect_model(folder)
    assert not proof.exists()


def test_an_index_too_large_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is read within bounds."""
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="exceed 100"):
        inspect_model(_megatron(tmp_path))


def test_a_running_save_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh files of a distributed checkpoint get a second look, and growth is an error."""
    folder = _megatron(tmp_path)
    part = folder / "__0_0.distcp"
    os.utime(part)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert any("still being written" in text for text in inspect_model(folder).warnings)

    def grow(seconds: float) -> None:
        with part.open("ab") as stream:
            stream.write(b"more")

    monkeypatch.setattr("time.sleep", grow)
    with pytest.raises(ModelError, match=r"still being written: __0_0\.distcp"):
        inspect_model(folder)
    os.utime(part, (0, 0))
    assert inspect_model(folder).iteration == 10


def test_newer_than_the_tracker(tmp_path: Path) -> None:
    """An iteration that its root does not yet call the latest is worth a warning."""
    folder = _megatron(tmp_path)
    newer = Path(shutil.copytree(folder, tmp_path / "iter_0000020"))
    for path in newer.iterdir():
        os.utime(path, (0, 0))
    assert any("names iteration 10" in warning for warning in inspect_model(newer).warnings)
    assert not any("names iteration" in warning for warning in inspect_model(folder).warnings)


_INDEX = (DIST_DATA / "megatron-tp2" / "iter_0000010" / ".metadata").read_bytes()


@given(
    st.lists(st.tuples(st.integers(0, len(_INDEX)), st.binary(min_size=1, max_size=3)), max_size=5)
)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_mutated_index(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    """Whatever is changed in an index, the checkpoint is described or is a ModelError."""
    mutated = bytearray(_INDEX)
    for start, replacement in changes:
        mutated[start : start + len(replacement)] = replacement
    (tmp_path / ".metadata").write_bytes(mutated)
    try:
        index = read_index(tmp_path)
        str((index.layers, index.embedding, index.tensor_parallel, index.weight_bytes))
        check_parts(tmp_path, index)
    except ModelError:
        pass


def test_numbers_are_bounded(tmp_path: Path) -> None:
    """Numbers that no model has, which could not even be printed, are as good as absent."""
    folder = _megatron(tmp_path)
    arguments = argparse.Namespace(num_attention_heads=1 << 20_000, num_layers=-1)
    _torch_save(folder / "common.pt", {"args": arguments})
    found = inspect_model(folder)
    assert (found.heads, found.layers) == (None, 2)
