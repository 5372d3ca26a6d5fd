"""A model as a run sees it: a checkpoint on disk, or an endpoint that is already up."""

from __future__ import annotations

from typing import Literal

from evalhpc.models.base import Frozen

CheckpointFormat = Literal[
    "hf",
    "hf-peft",
    "gguf",
    "nemo2",
    "megatron-bridge",
    "megatron-dist",
    "fsdp-dcp",
    "megatron-legacy",
    "endpoint",
]


class Model(Frozen):
    """`model_id` is the name that requests carry in their `model` field."""

    model_id: str
    format: CheckpointFormat
    path: str | None = None  # absolute; None for an endpoint
    url: str | None = None  # base URL ending in /v1; None for a checkpoint
    api_key_env: str | None = None  # NAME of the variable that holds the key, never its value
    fingerprint: str = ""  # of names, sizes and samples of content; "" for an endpoint
    bytes: int = 0
    tokenizer: str | None = None  # folder with tokenizer files, where there is one
    chat_template: bool = False
    weight_bytes: int | None = None  # what sizes a deployment; None where the files do not say
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    context_length: int | None = None  # tokens
