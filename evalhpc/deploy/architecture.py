"""The shape of a model and its tokenizer, from the small files or the header beside its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from evalhpc.deploy import megatron
from evalhpc.deploy.completeness import (
    check_adapter,
    check_gguf,
    check_hf,
    counted_files,
    gguf_parts,
)
from evalhpc.deploy.formats import Detected
from evalhpc.deploy.gguf_header import Items
from evalhpc.deploy.metadata_files import read_mapping, text, whole_number
from evalhpc.deploy.shape import Architecture
from evalhpc.deploy.tokenizer_files import has_chat_template, tokenizer_folder, warn_without
from evalhpc.models.checkpoint import CheckpointFormat


def describe(found: Detected) -> Architecture:
    """Check that the weights are whole, and read what is said of them; raises ModelError."""
    shape = _READERS[found.format](found)
    if shape.head_size is None and shape.hidden_size and shape.heads:
        return dataclasses.replace(shape, head_size=shape.hidden_size // shape.heads)
    return shape


def _hf(found: Detected) -> Architecture:
    folder = found.path
    config = read_mapping(folder / "config.json")
    dtypes = check_hf(folder)
    # Models of several modes keep the language model's numbers one level down.
    nested = config.get("text_config")
    shape = {**config, **nested} if isinstance(nested, dict) else config
    heads = whole_number(shape, "num_attention_heads", "n_head")
    names = config.get("architectures")
    warnings = [] if dtypes else ["weights are pickles (.bin): convert them to safetensors"]
    tokenizer = tokenizer_folder(folder)
    return Architecture(
        name=str(names[0]) if isinstance(names, list) and names else text(config, "model_type"),
        layers=whole_number(shape, "num_hidden_layers", "n_layer", "num_layers"),
        hidden_size=whole_number(shape, "hidden_size", "n_embd", "d_model"),
        heads=heads,
        kv_heads=whole_number(shape, "num_key_value_heads") or heads,
        head_size=whole_number(shape, "head_dim"),
        vocabulary=whole_number(shape, "vocab_size"),
        context_length=whole_number(
            shape, "max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"
        ),
        dtype=text(shape, "dtype", "torch_dtype") or _commonest(dtypes),
        parameters=dtypes.total() or None,
        weight_bytes=sum(path.stat().st_size for path in counted_files(folder)),
        tokenizer=tokenizer,
        chat_template=has_chat_template(folder),
        warnings=(*warnings, *warn_without(tokenizer)),
    )


def _peft(found: Detected) -> Architecture:
    config = read_mapping(found.path / "adapter_config.json")
    dtypes = check_adapter(found.path)
    return Architecture(
        name=text(config, "peft_type"),
        base_model=text(config, "base_model_name_or_path"),
        dtype=_commonest(dtypes),
        parameters=dtypes.total() or None,
        tokenizer=tokenizer_folder(found.path),
        chat_template=has_chat_template(found.path),
        warnings=("an adapter: merge it into its base model, or serve both together",),
    )


def _gguf(found: Detected) -> Architecture:
    header = check_gguf(found.path)
    values = header.metadata
    kind = text(values, "general.architecture") or ""
    tokens = values.get("tokenizer.ggml.tokens")
    return Architecture(
        name=kind or None,
        layers=whole_number(values, f"{kind}.block_count"),
        hidden_size=whole_number(values, f"{kind}.embedding_length"),
        heads=_head_count(values, f"{kind}.attention.head_count"),
        kv_heads=_head_count(values, f"{kind}.attention.head_count_kv"),
        head_size=whole_number(values, f"{kind}.attention.key_length"),
        vocabulary=tokens.length if isinstance(tokens, Items)
        else whole_number(values, f"{kind}.vocab_size"),
        context_length=whole_number(values, f"{kind}.context_length"),
        dtype=header.dtype or None,
        parameters=header.parameters or None,
        weight_bytes=sum(part.stat().st_size for part in gguf_parts(found.path)),
        chat_template=text(values, "tokenizer.chat_template") is not None,
        warnings=() if isinstance(tokens, Items) else ("no tokenizer in the GGUF header",),
    )  # fmt: skip


def _head_count(values: dict[str, Any], key: str) -> int | None:
    """The number of heads; models whose layers differ have one per layer, the largest counts."""
    value = values.get(key)
    if isinstance(value, Items):
        numbers = [item for item in value.first if type(item) is int]
        return max(numbers, default=None)
    return whole_number(values, key)


def _commonest(dtypes: Any) -> str | None:
    return dtypes.most_common(1)[0][0] if dtypes else None


_READERS: dict[CheckpointFormat, Callable[[Detected], Architecture]] = {
    "hf": _hf,
    "hf-peft": _peft,
    "gguf": _gguf,
    "nemo2": megatron.nemo2,
    "megatron-bridge": megatron.megatron_bridge,
    "megatron-dist": megatron.torch_dist,
    "fsdp-dcp": megatron.fsdp,
    "megatron-legacy": megatron.legacy,
}
