"""The record of a model's shape that the readers of every format fill in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Architecture:
    """What the files say; None where they do not."""

    name: str | None = None
    layers: int | None = None
    hidden_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None  # elements of one head
    vocabulary: int | None = None
    context_length: int | None = None  # tokens
    dtype: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None  # without optimizer state
    tensor_parallel: int | None = None  # as saved; only a hint
    pipeline_parallel: int | None = None
    base_model: str | None = None  # what an adapter or a Megatron checkpoint derives from
    tokenizer: Path | None = None
    tokenizer_name: str | None = None  # as training named it: a hub's name or a path elsewhere
    chat_template: bool = False
    warnings: tuple[str, ...] = ()
