"""Checkpoints of Megatron, NeMo and FSDP: their shape, by settings first and tensors second."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

from evalhpc.deploy.completeness import check_archive, check_torch_dist, lacking
from evalhpc.deploy.dist_index import DistIndex, check_parts, read_index
from evalhpc.deploy.formats import Detected
from evalhpc.deploy.metadata_files import read_json, read_yaml, text, whole_number
from evalhpc.deploy.pickle_objects import ClassName, Inert
from evalhpc.deploy.shape import Architecture
from evalhpc.deploy.tokenizer_files import has_chat_template, tokenizer_folder, warn_without
from evalhpc.deploy.torch_archive import read_archive, read_archive_bytes
from evalhpc.errors import ModelError

_COMMON = "common.pt"
_COMMON_KEY = "common_state"  # where megatron-core 0.19 keeps what common.pt held
_MAX_COMMON = 64 * 1024 * 1024
_SHOWN = 5
_ATTRIBUTE = re.compile(r"Attr\(name='(\w+)'\)")
_LEGACY = "the legacy format is not served: convert it, or save again with --ckpt-format torch_dist"


def megatron_bridge(found: Detected) -> Architecture:
    """Megatron Bridge: run_config.yaml beside a torch_dist checkpoint; raises ModelError."""
    folder = found.path
    check_torch_dist(folder)
    if not (folder / "run_config.yaml").is_file():
        raise lacking(folder, "run_config.yaml")
    index = _checked_index(folder)
    config, warnings = _yaml_or_warning(folder / "run_config.yaml")
    settings = _mapping(config.get("model"))
    tokenizer = tokenizer_folder(folder / "tokenizer", folder.parent / "tokenizer", folder)
    shape = dataclasses.replace(
        _of_settings(settings),
        base_model=text(settings, "hf_model_id"),
        tokenizer_name=text(_mapping(config.get("tokenizer")), "tokenizer_model"),
    )
    return _completed(shape, index, tokenizer, warnings)


def nemo2(found: Detected) -> Architecture:
    """NeMo 2: `context/` beside a torch_dist checkpoint in `weights/`; raises ModelError."""
    context, weights = found.path / "context", found.path / "weights"
    if not any(path.is_file() for path in weights.rglob("*")):
        raise ModelError(
            f"{weights} is empty",
            cause="a save that did not finish",
            hint=f"ls -la {weights}",
        )
    check_torch_dist(weights)
    index = _checked_index(weights)
    config, warnings = _yaml_or_warning(context / "model.yaml")
    settings = {**_graph_settings(read_json(context / "io.json")), **_mapping(config.get("config"))}
    tokenizer = tokenizer_folder(context / "nemo_tokenizer", context / "tokenizer", context)
    named = {**settings, **_mapping(config.get("tokenizer"))}
    shape = dataclasses.replace(
        _of_settings(settings), tokenizer_name=text(named, "pretrained_model_name")
    )
    return _completed(shape, index, tokenizer, warnings)


def torch_dist(found: Detected) -> Architecture:
    """Megatron-LM: arguments in common.pt, or in the index since 0.19; raises ModelError."""
    folder = found.path
    check_torch_dist(folder)
    if not (folder / "metadata.json").is_file():
        raise lacking(folder, "metadata.json")
    index = _checked_index(folder)
    common = _common_state(folder, index)
    if common is None:
        raise lacking(folder, f"{_COMMON}, and {_COMMON_KEY} in its index")
    arguments = common.get("args")
    settings = arguments.state if isinstance(arguments, Inert) else {}
    warnings = () if settings else ("it holds no arguments of its training: heads are unknown",)
    tokenizer = tokenizer_folder(folder / "tokenizer", folder.parent / "tokenizer", folder)
    return _completed(_of_settings(settings), index, tokenizer, warnings)


def fsdp(found: Detected) -> Architecture:
    """A torch.distributed checkpoint of no known framework; raises ModelError."""
    folder = found.path
    check_torch_dist(folder)
    index = _checked_index(folder)
    if found.iteration is not None or any(part.key.startswith(_COMMON_KEY) for part in index.parts):
        raise lacking(folder, "metadata.json")  # Megatron writes it last
    return _completed(Architecture(), index, tokenizer_folder(folder, folder.parent), ())


def legacy(found: Detected) -> Architecture:
    """Megatron's one file per rank: its layout by folder names; raises ModelError."""
    ranks = _ranks(found.path)
    for name in ranks:
        files = sorted((found.path / name).glob("model*_rng.pt"))
        if not files:
            raise lacking(found.path / name, "model_optim_rng.pt")
        check_archive(files[0])
    sizes = [len(set(numbers)) for numbers in zip(*ranks.values(), strict=True)]
    return Architecture(
        tensor_parallel=sizes[0],
        pipeline_parallel=sizes[1] if len(sizes) > 1 else 1,
        warnings=(_LEGACY,),
    )


def _ranks(folder: Path) -> dict[str, tuple[int, ...]]:
    """Folder → its tensor, pipeline and expert rank; raises ModelError where some lack."""
    words = {path.name: path.name.split("_")[2:] for path in folder.glob("mp_rank_*")}
    if not all(word.isdecimal() for numbers in words.values() for word in numbers):
        raise lacking(folder, f"mp_rank folders with numbers: {', '.join(sorted(words)[:5])}")
    ranks = {name: tuple(map(int, numbers)) for name, numbers in words.items()}
    if len({len(numbers) for numbers in ranks.values()}) != 1:
        raise lacking(folder, f"one layout for {', '.join(sorted(ranks)[:5])}")
    axes = [range(max(numbers) + 1) for numbers in zip(*ranks.values(), strict=True)]
    if math.prod(map(len, axes)) != len(ranks):
        whole = itertools.islice(itertools.product(*axes), len(ranks) + _SHOWN)
        absent = [numbers for numbers in whole if numbers not in ranks.values()]
        named = ["mp_rank_" + "_".join(_padded(numbers)) for numbers in absent]
        raise lacking(folder, ", ".join(named[:_SHOWN]))
    return ranks


def _padded(numbers: tuple[int, ...]) -> list[str]:
    return [f"{number:0{3 if place else 2}d}" for place, number in enumerate(numbers)]


def _checked_index(folder: Path) -> DistIndex:
    index = read_index(folder)
    check_parts(folder, index)
    return index


def _completed(
    shape: Architecture, index: DistIndex, tokenizer: Path | None, warnings: tuple[str, ...]
) -> Architecture:
    """`shape`, with what only the tensors tell, and what they tell where it is silent."""
    vocabulary, hidden = index.embedding or (None, None)
    dtypes = index.dtypes
    if not dtypes:
        warnings = (*warnings, "its index names no weights")
    return dataclasses.replace(
        shape,
        layers=shape.layers or index.layers,
        hidden_size=shape.hidden_size or hidden,
        vocabulary=shape.vocabulary or vocabulary,
        dtype=dtypes.most_common(1)[0][0] if dtypes else shape.dtype,
        parameters=dtypes.total() or None,
        weight_bytes=index.weight_bytes or None,
        tensor_parallel=shape.tensor_parallel or index.tensor_parallel,
        tokenizer=tokenizer,
        chat_template=has_chat_template(tokenizer),
        warnings=(*warnings, *warn_without(tokenizer)),
    )


def _of_settings(values: dict[str, Any]) -> Architecture:
    """The shape by Megatron's names, which Bridge, NeMo 2 and its command line share."""
    heads = whole_number(values, "num_attention_heads")
    groups = whole_number(values, "num_query_groups")
    if values.get("group_query_attention") is False:  # then the number of groups means nothing
        groups = None
    return Architecture(
        name=text(values, "_target_"),
        layers=whole_number(values, "num_layers"),
        hidden_size=whole_number(values, "hidden_size"),
        heads=heads,
        kv_heads=groups or heads,
        head_size=whole_number(values, "kv_channels"),
        vocabulary=whole_number(values, "padded_vocab_size", "vocab_size"),
        context_length=whole_number(values, "max_position_embeddings", "seq_length"),
        dtype=_dtype(values.get("params_dtype")),
        tensor_parallel=whole_number(values, "tensor_model_parallel_size"),
        pipeline_parallel=whole_number(values, "pipeline_model_parallel_size"),
        tokenizer_name=text(values, "tokenizer_model", "tokenizer_name_or_path"),
    )


def _dtype(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("_target_")
    found = value.name if isinstance(value, ClassName) else value
    return found.removeprefix("torch.") if isinstance(found, str) else None


def _common_state(folder: Path, index: DistIndex) -> dict[Any, Any] | None:
    """What Megatron saves beside the tensors; None where there is none."""
    if (folder / _COMMON).is_file():
        return _mapping(read_archive(folder / _COMMON))
    part = next((part for part in index.parts if part.key.startswith(_COMMON_KEY)), None)
    if part is None:
        return None
    source = f"{_COMMON_KEY} in {folder / part.file}"
    if part.length > _MAX_COMMON:
        raise ModelError(f"{source} takes {part.length} bytes", hint=f"ls -la {folder}")
    with (folder / part.file).open("rb") as stream:
        stream.seek(part.offset)
        found = read_archive_bytes(stream.read(part.length), source)
    return _mapping(found[0] if isinstance(found, list) and found else found)


def _graph_settings(document: Any) -> dict[str, Any]:
    """The plain attributes of a NeMo 2 graph of objects (io.json), by name."""
    found: dict[str, Any] = {}
    for entry in _mapping(_mapping(document).get("objects")).values():
        for item in _mapping(entry).get("items") or ():
            if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str):
                match = _ATTRIBUTE.fullmatch(item[0])
                value = _mapping(item[1]).get("value")
                if match and isinstance(value, int | str):
                    found.setdefault(match[1], value)
    return found


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _yaml_or_warning(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Frameworks put tags of their own into these files: unreadable is worth a warning only."""
    if not path.is_file():
        return {}, ()
    try:
        return read_yaml(path), ()
    except ModelError as error:
        return {}, (f"settings unknown: {error.what.splitlines()[0]}",)
