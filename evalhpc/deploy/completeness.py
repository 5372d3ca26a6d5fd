"""Whether all of a checkpoint is there: leftovers, empty files, absent shards, cut headers."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from evalhpc.deploy import gguf_header, safetensors_header
from evalhpc.deploy.fingerprint import FileEntry
from evalhpc.deploy.formats import weight_files
from evalhpc.deploy.metadata_files import read_json
from evalhpc.errors import ModelError

#: What downloaders and copiers name a file that is not finished.
_LEFTOVERS = (".incomplete", ".tmp", ".partial", ".part", ".crdownload", ".aria2")
#: Files of these kinds are never empty in a whole checkpoint.
_NEVER_EMPTY = (".safetensors", ".bin", ".gguf", ".distcp", ".pt", ".json", ".yaml", ".model")
_LFS_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
_SHOWN = 5


def check_files(root: Path, files: list[FileEntry]) -> None:
    """Raises ModelError for signs of an unfinished copy that every format shares."""
    leftovers = [entry.name for entry in files if entry.name.endswith(_LEFTOVERS)]
    if leftovers:
        raise ModelError(
            f"{root} holds unfinished files: {_some(leftovers)}",
            cause="a download, copy or save that is still running or was cut",
            hint="finish it, or delete these files if the rest is whole",
        )
    empty = [
        entry.name
        for entry in files
        if entry.size == 0 and (entry.name.endswith(_NEVER_EMPTY) or _is_index(entry))
    ]
    if empty:
        raise ModelError(
            f"{root} holds empty files: {_some(empty)}",
            cause="a full disk or quota, or a save that was cut",
            hint="df -h and quota, then save or copy the checkpoint again",
        )


def check_torch_dist(folder: Path) -> None:
    """Raises ModelError unless a torch.distributed checkpoint has its index, written last."""
    if not (folder / ".metadata").is_file():
        raise ModelError(
            f"the checkpoint in {folder} has no .metadata file",
            cause="a save that did not finish: .metadata is written last (or a copy by `*`, "
            "which skips hidden files)",
            hint=f"ls -la {folder}, or pass an earlier iteration's folder",
        )
    if not any(folder.glob("*.distcp")):
        raise ModelError(
            f"the checkpoint in {folder} has no .distcp file",
            cause="a copy that left the weights behind",
            hint=f"ls -la {folder}",
        )


def lacking(folder: Path, what: str) -> ModelError:
    """The error of a distributed checkpoint that is without one of its marks."""
    return ModelError(
        f"the checkpoint in {folder} lacks {what}",
        cause="a save that did not finish, or a copy that left it out",
        hint=f"ls -la {folder}, or pass an earlier iteration's folder",
    )


def check_adapter(folder: Path) -> Counter[str]:
    """Parameters by dtype of a PEFT folder; raises ModelError unless it has its weights."""
    files = [*folder.glob("adapter_model*.safetensors"), *folder.glob("adapter_model*.bin")]
    if not files:
        raise ModelError(
            f"the adapter in {folder} has no adapter_model file",
            cause="a save or copy that did not finish",
            hint=f"ls -la {folder}",
        )
    return sum((_check_weights(path) for path in files), Counter())


def check_hf(folder: Path) -> Counter[str]:
    """Parameters by dtype of a Hugging Face folder; empty when its weights are pickles.

    Raises ModelError for absent shards and for weight files that are cut or damaged.
    """
    indices = sorted(folder.glob("*.index.json"))
    for index in indices:
        _check_index(folder, index)
    _check_numbering(folder, weight_files(folder))
    files = counted_files(folder)
    total = sum((_check_weights(path) for path in files), Counter[str]())
    if not files or (files[0].suffix == ".safetensors" and not total):
        raise _no_tensors(files[0] if files else folder / "config.json")
    return total


def counted_files(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face folder, each weight once.

    Beside the shards, some repositories keep one more file, or pickles, of the same weights.
    """
    files = weight_files(folder)
    safetensors = [path for path in files if path.suffix == ".safetensors"]
    if len(safetensors) > 1:
        named = _indexed(folder, sorted(folder.glob("*.index.json")))
        return [path for path in safetensors if path.name in named] or safetensors
    return safetensors or files


def gguf_parts(path: Path) -> list[Path]:
    """The files of the model that `path` is or begins, in order; raises ModelError if some lack."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    _check_numbering(path.parent, [path])
    return [path.parent / name for name in _shard_names(match)]


def check_gguf(path: Path) -> gguf_header.GgufHeader:
    """The header of the first part, after a check of every part; raises ModelError."""
    headers = []
    for part in gguf_parts(path):
        _check_pointer(part)
        headers.append(gguf_header.read_header(part))
    total = sum(header.parameters for header in headers)
    if total == 0:  # of a split model, the first part alone may be without
        raise _no_tensors(path)
    return dataclasses.replace(headers[0], parameters=total)


def _check_weights(path: Path) -> Counter[str]:
    _check_pointer(path)
    if path.suffix == ".safetensors":
        return safetensors_header.read_header(path).dtypes
    check_archive(path)
    return Counter()


def check_archive(path: Path) -> None:
    """Raises ModelError for a file of `torch.save` that was cut."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    # torch.save writes a zip archive, whose directory is at its end. Nothing is unpickled.
    if zipped and not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path} is cut short: its archive has no end",
            cause="a copy or a save that did not finish",
            hint="copy the file again, and compare its size with the original's",
        )


def _check_pointer(path: Path) -> None:
    with path.open("rb") as stream:
        pointer = stream.read(len(_LFS_POINTER)) == _LFS_POINTER
    if pointer:
        raise ModelError(
            f"{path} is a Git LFS pointer, not the weights",
            cause="the repository was cloned without git-lfs",
            hint=f"git -C {path.parent} lfs pull",
        )


def _check_index(folder: Path, index: Path) -> None:
    names = _named_by(index)
    absent = sorted(name for name in names if not (folder / name).is_file())
    if absent:
        raise ModelError(
            f"{folder} lacks {len(absent)} of the {len(names)} files that {index.name} names: "
            + _some(absent),
            cause="a download or save that did not finish",
            hint=f"ls -l {folder}",
        )


def _indexed(folder: Path, indices: list[Path]) -> set[str]:
    return {name for index in indices for name in _named_by(index) if (folder / name).is_file()}


def _named_by(index: Path) -> set[str]:
    """The file names of an index's weight map; raises ModelError when it has none."""
    value: Any = read_json(index)
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not names or not all(map(_is_name, names.values())):
        raise ModelError(
            f"{index} names no weight files", cause="a damaged file", hint=f"head -c 300 {index}"
        )
    return set(names.values())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "/" not in value and "\0" not in value


def _check_numbering(folder: Path, files: list[Path]) -> None:
    """Raises ModelError when files named `-00001-of-00003` are fewer than they say."""
    for path in files:
        match = _SHARD.fullmatch(path.name)
        if match is None:
            continue
        names = _shard_names(match)
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise ModelError(
                f"{folder} lacks {len(absent)} of {len(names)} files: {_some(absent)}",
                cause="a download or save that did not finish",
                hint=f"ls -l {folder}",
            )


def _no_tensors(path: Path) -> ModelError:
    return ModelError(
        f"{path} holds no weights",
        cause="a file of vocabulary or metadata only, or a save that went wrong",
        hint=f"ls -l {path.parent}",
    )


def _shard_names(match: re.Match[str]) -> list[str]:
    return [
        f"{match['stem']}-{number:05d}-of-{match['count']}{match['suffix']}"
        for number in range(1, int(match["count"]) + 1)
    ]


def _is_index(entry: FileEntry) -> bool:
    return entry.path.name == ".metadata"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
