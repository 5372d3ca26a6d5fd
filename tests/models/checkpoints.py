"""Checkpoints made of a few bytes: just what inspection looks at."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

from evalhpc.deploy.dist_index import read_index

DIST_DATA = Path(__file__).parents[1] / "unit" / "deploy" / "data"

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
}


def safetensors(shapes: dict[str, list[int]]) -> bytes:
    """A valid file of BF16 zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return safetensors_of(header, bytes(end))


def safetensors_of(header: Any, data: bytes = b"") -> bytes:
    """A file with any header."""
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def write_hf(folder: Path, *, shards: int = 1, tokenizer: bool = True) -> Path:
    """A Hugging Face folder with one tensor of 16 x 8 per shard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{n:05d}-of-{shards:05d}.safetensors" for n in range(1, shards + 1)]
        index = {"weight_map": {f"t{n}": name for n, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for number, name in enumerate(names):
        (folder / name).write_bytes(safetensors({f"t{number}": [16, 8]}))
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
        (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return folder


def write_dist(
    folder: Path, *, bridge: bool = False, metadata: bool = True, source: str = "megatron-tp2"
) -> Path:
    """A torch.distributed folder with a real index: Megatron Bridge's, or Megatron-LM's.

    The weights are holes of the right sizes, changed long ago.
    """
    folder.mkdir(parents=True, exist_ok=True)
    real = DIST_DATA / source / "iter_0000010"
    for path in real.iterdir():
        shutil.copyfile(path, folder / path.name)
    for name, size in dist_files(real / ".metadata").items():
        with (folder / name).open("wb") as stream:
            stream.truncate(size)
    if not metadata:
        (folder / ".metadata").unlink()
    if bridge:
        (folder / "run_config.yaml").write_text(
            "model: {num_layers: 4, hidden_size: 8, num_attention_heads: 2, seq_length: 64,\n"
            "  tensor_model_parallel_size: 2, hf_model_id: org/base}\n"
            "tokenizer: {tokenizer_model: org/tokenizer}\n"
        )
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    return folder


def dist_files(index: Path) -> dict[str, int]:
    """The files that an index names, with the bytes that they need."""
    sizes: dict[str, int] = {}
    for part in read_index(index.parent).parts:
        sizes[part.file] = max(sizes.get(part.file, 0), part.offset + part.length)
    return sizes


def gguf_string(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf(
    *, version: int = 3, pairs: int | None = None, data: int | None = None, chat: bool = True
) -> bytes:
    """A file of one F32 tensor of 4 x 8; `pairs` and `data` lie about what follows."""
    tokens = struct.pack("<IIQ", 9, 8, 3) + b"".join(map(gguf_string, ("a", "b", "c")))
    metadata = [
        gguf_string("general.architecture") + struct.pack("<I", 8) + gguf_string("llama"),
        gguf_string("llama.block_count") + struct.pack("<II", 4, 2),
        gguf_string("llama.attention.head_count") + struct.pack("<IIQii", 9, 5, 2, 3, 4),
        gguf_string("tokenizer.ggml.tokens") + tokens,
    ]
    if chat:
        metadata.append(
            gguf_string("tokenizer.chat_template") + struct.pack("<I", 8) + gguf_string("{{ m }}")
        )
    tensor = gguf_string("weight") + struct.pack("<IQQIQ", 2, 4, 8, 0, 0)
    count = len(metadata) if pairs is None else pairs
    head = b"GGUF" + struct.pack("<IQQ", version, 1, count) + b"".join(metadata) + tensor
    head += bytes(-len(head) % 32)
    return head + bytes(4 * 8 * 4 if data is None else data)
