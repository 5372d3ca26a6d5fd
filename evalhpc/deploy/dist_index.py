"""The index of a torch.distributed checkpoint (`.metadata`): its tensors, and where they lie."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalhpc.deploy import safe_pickle
from evalhpc.deploy.pickle_objects import ClassName, Inert
from evalhpc.errors import ModelError

INDEX = ".metadata"
#: First words of the keys that are not the model's: optimizers, schedulers, loaders.
_NOT_WEIGHTS = re.compile(
    r"(optim\w*|chained_\w*|lr_scheduler\w*|scheduler\w*|dataloader\w*|train_state|rng\w*)(\.|/|$)"
)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_STACKED = re.compile(r"(?:^|\.)layers\.[a-z_]")  # Megatron's key for all layers at once
_QKV = "self_attention.linear_qkv.weight"
_EMBEDDINGS = (
    "word_embeddings.weight",
    "embed_tokens.weight",
    "tok_embeddings.weight",
    "wte.weight",
)
_MAX_AXES = 16
#: Bytes of an element, by torch's name of its type.
_WIDTHS = {
    "float64": 8, "double": 8, "int64": 8, "uint64": 8, "float32": 4, "float": 4, "int32": 4,
    "uint32": 4, "float16": 2, "half": 2, "bfloat16": 2, "int16": 2, "uint16": 2,
}  # fmt: skip


@dataclass(frozen=True)
class SavedTensor:
    """A tensor of the whole model, and where its chunks begin."""

    shape: tuple[int, ...]
    dtype: str
    offsets: tuple[tuple[int, ...], ...]

    @property
    def parameters(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Part:
    """Some bytes of one .distcp file."""

    key: str
    file: str  # relative to the checkpoint
    offset: int
    length: int


@dataclass(frozen=True)
class DistIndex:
    """What a checkpoint holds: weights by key, and the parts of its files."""

    weights: dict[str, SavedTensor]
    parts: tuple[Part, ...]

    @property
    def dtypes(self) -> Counter[str]:
        """Parameters by dtype."""
        found: Counter[str] = Counter()
        for tensor in self.weights.values():
            found[tensor.dtype] += tensor.parameters
        return found

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights alone, without optimizer state."""
        return sum(count * _WIDTHS.get(dtype, 1) for dtype, count in self.dtypes.items())

    @property
    def tensor_parallel(self) -> int | None:
        """Into how many pieces the query-key-value weights are cut; None if there are none."""
        for key, tensor in self.weights.items():
            if key.endswith(_QKV) and len(tensor.shape) >= 2 and tensor.offsets:
                axis = len(tensor.shape) - 2  # the first axis of all layers at once is the layer
                return len({offsets[axis] for offsets in tensor.offsets})
        return None

    @property
    def layers(self) -> int | None:
        """The number of transformer layers, by number or by the axis that stacks them."""
        numbers = [int(found[1]) for key in self.weights if (found := _LAYER.search(key))]
        stacked = [
            t.shape[0] for key, t in self.weights.items() if _STACKED.search(key) and t.shape
        ]
        return max(numbers) + 1 if numbers else max(stacked, default=None)

    @property
    def embedding(self) -> tuple[int, int] | None:
        """(vocabulary as padded, hidden size)."""
        for key, tensor in self.weights.items():
            if key.endswith(_EMBEDDINGS) and len(tensor.shape) == 2:
                return tensor.shape[0], tensor.shape[1]
        return None


def read_index(folder: Path) -> DistIndex:
    """The index of `folder`; raises ModelError when it is refused, damaged, or no index."""
    path = folder / INDEX
    with path.open("rb") as stream:
        data = stream.read(safe_pickle.MAX_BYTES + 1)
    found = safe_pickle.load(data, str(path))
    if not isinstance(found, Inert) or not found.name.endswith(".Metadata"):
        raise _malformed(path)
    tensors, places = found.get("state_dict_metadata"), found.get("storage_data")
    if not isinstance(tensors, dict) or not isinstance(places or {}, dict):
        raise _malformed(path)
    try:
        weights = dict(_weights(tensors))
        parts = tuple(_part(key, place) for key, place in (places or {}).items())
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise _malformed(path) from error
    return DistIndex(weights, parts)


def check_parts(folder: Path, index: DistIndex) -> None:
    """Raises ModelError unless every file that the index names is there and long enough."""
    needed: dict[str, int] = {}
    for part in index.parts:
        needed[part.file] = max(needed.get(part.file, 0), part.offset + part.length)
    absent = sorted(name for name in needed if not (folder / name).is_file())
    if absent:
        raise ModelError(
            f"{folder} lacks {len(absent)} of the {len(needed)} files that its index names: "
            + ", ".join(absent[:5]),
            cause="a save or copy that did not finish, or a rank whose file system was another",
            hint=f"ls -la {folder}",
        )
    for name, size in sorted(needed.items()):
        if (folder / name).stat().st_size < size:
            raise ModelError(
                f"{folder / name} is cut short: its index names {size} bytes",
                cause="a full disk, or a save or copy that did not finish",
                hint="copy the file again, or pass an earlier iteration's folder",
            )


def _weights(tensors: dict[Any, Any]) -> Iterator[tuple[str, SavedTensor]]:
    for key, entry in tensors.items():
        shape = entry.get("size")  # bytes, such as Megatron's _extra_state, have none
        if shape is None or _NOT_WEIGHTS.match(key) or "._extra_state" in key:
            continue
        chunks = entry.get("chunks") or []
        offsets = tuple(_numbers(chunk.get("offsets"), len(shape)) for chunk in chunks)
        yield key, SavedTensor(_numbers(shape, len(shape)), _dtype(entry), offsets)


def _numbers(value: Any, count: int) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) != count or count > _MAX_AXES:
        raise ValueError("not a shape")
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in value):
        raise ValueError("not a shape")
    return value


def _dtype(entry: Inert) -> str:
    properties = entry.get("properties")
    known = properties.raw_state if isinstance(properties.raw_state, tuple) else ()
    dtype = known[0] if known else properties.get("dtype")
    return dtype.name.removeprefix("torch.") if isinstance(dtype, ClassName) else "unknown"


def _part(key: Any, place: Any) -> Part:
    name, offset, length = (place.get(word) for word in ("relative_path", "offset", "length"))
    path = Path(name)
    name.encode()  # lone surrogates name no file
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError("a file outside of the checkpoint")
    offset, length = _numbers((offset, length), 2)
    return Part(str(key.get("fqn") if isinstance(key, Inert) else key), name, offset, length)


def _malformed(path: Path) -> ModelError:
    return ModelError(
        f"{path} is no index of torch.distributed.checkpoint",
        cause="a damaged file, or one of another program under this name",
        hint=f"python -m pickletools {path} | head -40",
    )
