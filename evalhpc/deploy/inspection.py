"""What a checkpoint is, from its files alone: no torch, no pickle run, bounded reads."""

from __future__ import annotations

import dataclasses
import difflib
import re
import time
from dataclasses import dataclass
from pathlib import Path

from evalhpc.deploy.architecture import describe
from evalhpc.deploy.completeness import check_files, gguf_parts
from evalhpc.deploy.demo_models import DemoModel, demo_models
from evalhpc.deploy.fingerprint import FileEntry, fingerprint, list_files
from evalhpc.deploy.formats import Detected, detect, legacy
from evalhpc.errors import ModelError
from evalhpc.models.checkpoint import CheckpointFormat, Model

__all__ = [
    "DemoModel",
    "Inspection",
    "demo_models",
    "find_model",
    "inspect_model",
    "resolve_model",
]

#: A file changed so lately (seconds) may still be written.
_QUIET = 10.0
#: Seconds between two looks at fresh files.
_SETTLE = 1.0
_WRITTEN_BY_RANKS = ("nemo2", "megatron-bridge", "megatron-dist", "fsdp-dcp", "megatron-legacy")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Inspection:
    """A checkpoint that is whole; None where the files do not say."""

    format: CheckpointFormat
    path: str  # absolute: the folder, or the .gguf file, that holds the weights
    iteration: int | None
    architecture: str | None
    layers: int | None
    hidden_size: int | None
    heads: int | None
    kv_heads: int | None
    head_size: int | None  # elements of one head
    vocabulary: int | None
    context_length: int | None  # tokens
    dtype: str | None
    parameters: int | None
    bytes: int  # of all files
    weight_bytes: int | None  # without optimizer state
    tensor_parallel: int | None  # as saved; only a hint
    pipeline_parallel: int | None
    base_model: str | None
    tokenizer: str | None  # absolute folder
    tokenizer_name: str | None  # as training named it
    chat_template: bool
    warnings: tuple[str, ...]
    fingerprint: str  # 64 hex digits


def inspect_model(path: Path) -> Inspection:
    """The checkpoint at `path`: a folder, a Megatron root or iteration, or a .gguf file.

    Raises ModelError when it is missing, empty, half-written, damaged, unknown or refused.
    """
    try:
        return _inspect(_absolute(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def resolve_model(arg: str, *, model_id: str | None = None) -> Model:
    """The model that a user means, without the warnings of `find_model`."""
    return find_model(arg, model_id=model_id)[0]


def find_model(arg: str, *, model_id: str | None = None) -> tuple[Model, tuple[str, ...]]:
    """The model that a user means (a demo model's name, or a path), and what is odd about it.

    `model_id` defaults to the demo model's name, or to the folder's or file's own. Raises
    ModelError.
    """
    demo = demo_models().get(arg)
    path = demo.locate() if demo else Path(arg).expanduser()
    try:
        there = path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not there:
        raise _not_found(arg, path)
    found = inspect_model(path)
    if found.format == "megatron-legacy":
        raise legacy(Path(found.path))
    model = Model(
        model_id=model_id or (arg if demo else _default_id(path)),
        format=found.format,
        path=found.path,
        fingerprint=found.fingerprint,
        bytes=found.bytes,
        tokenizer=found.tokenizer,
        chat_template=found.chat_template,
        weight_bytes=found.weight_bytes,
        layers=found.layers,
        heads=found.heads,
        kv_heads=found.kv_heads,
        head_size=found.head_size,
        context_length=found.context_length,
    )
    return model, found.warnings


def _inspect(path: Path) -> Inspection:
    found = detect(path)
    parts = gguf_parts(found.path) if found.format == "gguf" else [found.path]
    files = [entry for part in parts for entry in list_files(part)]
    check_files(found.path, files)
    shape = describe(found)
    _check_quiet(found, parts, files)
    values = {field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)}
    values["architecture"] = values.pop("name")
    values["tokenizer"] = str(shape.tokenizer) if shape.tokenizer else None
    values["warnings"] = (*found.warnings, *shape.warnings, *_unquiet(files))
    return Inspection(
        format=found.format,
        path=str(found.path),
        iteration=found.iteration,
        bytes=sum(entry.size for entry in files),
        fingerprint=fingerprint(files),
        **values,
    )


def _check_quiet(found: Detected, parts: list[Path], files: list[FileEntry]) -> None:
    """Raises ModelError when a file appeared, grew or was touched while the rest was read.

    Ranks write their parts of a distributed checkpoint for minutes: where one of them is fresh,
    the second look comes a little later.
    """
    if found.format in _WRITTEN_BY_RANKS and _unquiet(files):
        time.sleep(_SETTLE)
    again = [entry for part in parts for entry in list_files(part)]
    changed = sorted({entry.name for entry in set(files) ^ set(again)})
    if changed:
        raise ModelError(
            f"{found.path} is still being written: {', '.join(changed[:5])}",
            cause="a save or copy that is running",
            hint="wait until it is done, or pass an earlier iteration's folder",
        )


def _unquiet(files: list[FileEntry]) -> tuple[str, ...]:
    newest = max(files, key=lambda entry: entry.modified)
    # Whoever wrote it may have another clock: all that it decides is a warning, and a pause before
    # the second look, which itself compares the files with themselves.
    if time.time() - newest.modified > _QUIET:
        return ()
    return (f"{newest.name} changed within the last {_QUIET:g} s: is it still being written?",)


def _absolute(path: Path) -> Path:
    """Without links in its folders, so that moving a `latest` link does not change a run.

    A file's own name stays: hubs link `X.gguf` to a blob without a suffix.
    """
    path = path.expanduser()
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()


def _default_id(path: Path) -> str:
    path = _absolute(path)
    if path.name.startswith("iter_") and path.is_dir():
        return f"{path.parent.name}-{path.name}"
    return path.stem if path.is_file() else path.name or "model"


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"cannot read {error.filename or path}: {error.strerror or error}",
        cause="missing permission, or a file system that is away",
        hint=f"namei -l {path}",
    )


def _not_found(arg: str, path: Path) -> ModelError:
    if path.is_symlink():
        return ModelError(
            f"{path} is a link to nothing: {path.readlink()}",
            cause="what it led to was moved or removed, or lies on a file system not mounted here",
            hint=f"ls -l {path}",
        )
    names = sorted(demo_models())
    near = difflib.get_close_matches(arg, names, n=1, cutoff=0.4)
    parent = Path(arg).expanduser().parent
    beside = [child.name for child in parent.iterdir()] if parent.is_dir() else []
    sibling = difflib.get_close_matches(Path(arg).name, beside, n=1)
    if near:
        hint = f"perhaps you meant the demo model {near[0]}"
    elif sibling:
        hint = f"perhaps you meant {parent / sibling[0]}"
    else:
        hint = f"pass a folder, a .gguf file, or a demo model: {', '.join(names)}"
    cause = "no such path on this machine, and no demo model of that name"
    if _HUB_NAME.fullmatch(arg) and not parent.is_dir():
        cause = "it looks like a name on a hub; checkpoints are read from files: download it first"
    return ModelError(f"there is no model {arg!r}", cause=cause, hint=hint)
