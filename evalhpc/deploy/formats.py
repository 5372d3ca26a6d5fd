"""Which format a checkpoint folder has, and which iteration of it counts: by names alone."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from evalhpc.errors import ModelError
from evalhpc.models.checkpoint import CheckpointFormat

_ITERATION = re.compile(r"iter_(\d+)")
_LATEST = "latest_checkpointed_iteration.txt"
_KNOWN = "Hugging Face, PEFT, GGUF, NeMo 2, Megatron Bridge, Megatron torch_dist, FSDP"


@dataclass(frozen=True)
class Detected:
    """A format, and the folder or file that holds the weights."""

    format: CheckpointFormat
    path: Path
    iteration: int | None = None
    warnings: tuple[str, ...] = ()


def detect(path: Path) -> Detected:
    """The format of `path`; raises ModelError for what is missing, empty, unknown or refused."""
    if path.is_file():
        return _detect_file(path)
    if not path.is_dir():
        raise ModelError(
            f"there is no checkpoint at {path}",
            cause="a misspelt path, or a file system that this machine does not mount",
            hint=f"ls {path.parent}",
        )
    if not any(path.iterdir()):
        raise ModelError(
            f"{path} is empty",
            cause="a save or copy that never began",
            hint=f"ls -la {path.parent}",
        )
    found = _detect_folder(path) or _detect_iterations(path)
    if found is None:
        raise _unknown(path)
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files of a Hugging Face folder that hold weights, sorted."""
    patterns = ("*.safetensors", "pytorch_model*.bin")
    names = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in names if not path.name.startswith("adapter_"))


def _detect_file(path: Path) -> Detected:
    if path.suffix == ".nemo":
        raise _nemo1(path)
    if path.suffix == ".gguf":
        return Detected("gguf", path)
    if path.suffix in (".safetensors", ".bin", ".json", ".distcp", ".pt"):
        raise ModelError(
            f"{path} is one file of a checkpoint",
            cause="a checkpoint of this format is a folder",
            hint=f"pass the folder: {path.parent}",
        )
    raise _unknown(path)


def _detect_folder(path: Path) -> Detected | None:
    """The format of this very folder, in order of how sure its marks are."""
    iteration = _ITERATION.fullmatch(path.name)
    number = int(iteration[1]) if iteration else None
    if (path / "config.json").exists() and (weight_files(path) or any(path.glob("*.index.json"))):
        return Detected("hf", path)
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        return Detected("hf-peft", path)
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs:
        return Detected("gguf", _one_gguf(path, ggufs))
    if (path / "context" / "io.json").exists() and (path / "weights").is_dir():
        return Detected("nemo2", path)
    kind = _distributed(path)
    if kind is not None:
        return Detected(kind, path, number, _beside_tracker(path, number))
    if any(path.glob("mp_rank_*")):
        return Detected("megatron-legacy", path, number)
    if any(path.glob("*.nemo")):
        raise _nemo1(path)
    return None


def _distributed(path: Path) -> CheckpointFormat | None:
    """The kind of a torch.distributed checkpoint, half-written ones too."""
    index, described, common, settings, state = (
        (path / name).exists()
        for name in (".metadata", "metadata.json", "common.pt", "run_config.yaml", "train_state.pt")
    )
    shards = any(path.glob("*.distcp"))
    if settings and (shards or described or index or state):
        return "megatron-bridge"
    if state and (shards or index):
        return "megatron-bridge"
    if (described or common) and (shards or index or (described and common)):
        return "megatron-dist"
    return "fsdp-dcp" if shards or index else None


def _beside_tracker(path: Path, number: int | None) -> tuple[str, ...]:
    """A warning when the folder is newer than what its root calls the latest."""
    if number is None or not (path.parent / _LATEST).is_file():
        return ()
    named = _ITERATION.fullmatch(_named_by_tracker(path.parent / _LATEST))
    if named is None or int(named[1]) >= number:
        return ()
    return (f"{_LATEST} names iteration {int(named[1])}: this one may not be finished",)


def _detect_iterations(path: Path) -> Detected | None:
    """The format of the iteration that a Megatron root points to; None if it is no such root."""
    folder = _iteration_folder(path)
    if folder is None:
        return None
    untracked = not (path / _LATEST).is_file()
    found = _detect_folder(folder)
    if found is None:
        raise ModelError(
            f"the checkpoint in {folder} is not complete",
            cause="it holds none of the files that every format has: a save that did not finish",
            hint=f"ls -la {folder}, or pass an earlier iteration's folder",
        )
    if untracked:
        warning = f"no {_LATEST}: {folder.name} is the highest there is"
        return dataclasses.replace(found, warnings=(*found.warnings, warning))
    return found


def _iteration_folder(root: Path) -> Path | None:
    latest = root / _LATEST
    if latest.is_file():
        name = _named_by_tracker(latest)
        if name == "release" or _ITERATION.fullmatch(name):
            if (root / name).is_dir():
                return root / name
            raise ModelError(
                f"{latest} names {name}, which is not there",
                cause="a save that did not finish, or an iteration that was deleted",
                hint=f"ls -d {root}/iter_*",
            )
        raise ModelError(f"{latest} names no iteration: {name!r}", hint=f"cat {latest}")
    numbered = [
        (int(match[1]), child)
        for child in root.iterdir()
        if (match := _ITERATION.fullmatch(child.name)) and child.is_dir()
    ]
    return max(numbered)[1] if numbered else None


def _named_by_tracker(latest: Path) -> str:
    """The folder that a tracker file means; what it holds, when that is no number."""
    with latest.open(errors="replace") as stream:
        word = stream.read(64).strip()
    # isdecimal() holds for digits of every script, of which Megatron writes one
    return f"iter_{int(word):07d}" if word.isascii() and word.isdecimal() else word


def _one_gguf(folder: Path, files: list[Path]) -> Path:
    """The file to load: the only one, or the first of one split model."""
    first, _, count = files[0].stem.rpartition("-of-")
    if len(files) == 1 and not count.isdecimal():
        return files[0]
    if count.isdecimal() and first.endswith("-00001") and len(files) == int(count):
        stem = first.removesuffix("00001")
        if all(file.name.startswith(stem) for file in files):
            return files[0]
    raise ModelError(
        f"{folder} holds {len(files)} GGUF files that are not one whole model",
        cause="several quantisations in one folder, or a split model of which parts are absent",
        hint=f"pass one file, e.g. {files[0]}",
    )


def _nemo1(path: Path) -> ModelError:
    return ModelError(
        f"{path} is a NeMo 1 checkpoint (.nemo), which cannot be served",
        cause="NeMo 1 archives were replaced by NeMo 2 and Megatron Bridge checkpoints",
        hint="convert it to Hugging Face format with the NeMo release that wrote it",
    )


def legacy(path: Path) -> ModelError:
    """The error of serving what Megatron wrote as one file per rank."""
    return ModelError(
        f"{path} is a Megatron checkpoint in the legacy format, which cannot be served",
        cause="its mp_rank_* folders fix one parallel layout and hold pickled weights",
        hint="convert it: Megatron-LM tools/checkpoint/convert.py, "
        "or save again with --ckpt-format torch_dist",
    )


def _unknown(path: Path) -> ModelError:
    return ModelError(
        f"{path} is not a checkpoint of a known format",
        cause=f"none of the marks of these was found: {_KNOWN}; "
        "a config.json without weights is a copy that did not finish",
        hint=f"ls -la {path}",
    )
