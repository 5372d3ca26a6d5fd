"""What a pickle's objects become: plain data, or records that name a class and never are one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: Larger integers could be chosen so that all of them hash to the same value.
_MAX_KEY = 1 << 60
#: A tuple that is a key may hold so many plain values; deep ones would hash for ever.
_MAX_KEY_ITEMS = 64


class RefusedPickle(Exception):
    """Why a pickle is not read; `safe_pickle.load` makes a ModelError of it."""


@dataclass(eq=False)
class Inert:
    """An object that a pickle describes: its class by name, its arguments, its state."""

    name: str  # module.Class
    arguments: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)
    raw_state: Any = None  # where the state is no mapping of names

    def get(self, key: str) -> Any:
        """An attribute of the object; None when it has none of this name."""
        return self.state.get(key)


@dataclass(eq=False)
class ClassName:
    """A class, function or dtype of the allow-list, by name only."""

    name: str


@dataclass(eq=False)
class Storage:
    """Where a tensor's values are kept; they are never read."""

    dtype: str


@dataclass(eq=False)
class Tensor:
    """A tensor without its values."""

    shape: tuple[int, ...]
    dtype: str


def checked_key(value: Any, *, nested: bool = False) -> Any:
    """A key that hashes in constant time: no deep tuples, no integers chosen to collide."""
    if type(value) is tuple and not nested and len(value) <= _MAX_KEY_ITEMS:
        for item in value:
            checked_key(item, nested=True)
    elif type(value) is int:
        if abs(value) > _MAX_KEY:
            raise RefusedPickle("a key that no real checkpoint has")
    elif type(value) not in (str, bytes, bool, type(None), Inert, ClassName):
        raise RefusedPickle(f"damaged: a key of type {type(value).__name__}")
    return value


def checked_pairs(pairs: Any) -> dict[Any, Any]:
    """A dict of (key, value) pairs, each key checked."""
    return {checked_key(key): value for key, value in pairs}


def _sizes(values: Any = ()) -> tuple[int, ...]:
    """A torch.Size."""
    if type(values) not in (tuple, list) or not all(type(n) is int and n >= 0 for n in values):
        raise RefusedPickle("damaged: a shape that is not made of whole numbers")
    return tuple(values)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as protocol 2 writes them."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedPickle(f"an encoding {encoding[:40]!r}")
    return text.encode("latin-1")


def _tensor(storage: Any, _offset: Any, size: Any, *_: Any) -> Tensor:
    if type(storage) is not Storage:
        raise RefusedPickle("damaged: a tensor without a storage")
    return Tensor(_sizes(size), storage.dtype)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return checked_pairs(pairs)


def storage_of(reference: Any) -> Storage:
    """The stand-in for a torch archive's ("storage", type, key, location, count)."""
    if type(reference) is not tuple or len(reference) < 2 or reference[0] != "storage":
        raise RefusedPickle("it refers to something outside of the file")
    kind = reference[1].name if isinstance(reference[1], ClassName) else ""
    return Storage(kind.rpartition(".")[2].removesuffix("Storage").lower() or "unknown")


def frozen(values: Any = ()) -> frozenset[Any]:
    """A set of checked keys."""
    return frozenset(map(checked_key, values))


def _defaultdict(*_: Any) -> dict[Any, Any]:
    return {}


def _deque(*_: Any) -> list[Any]:
    return []


def _member(cls: Any, name: Any) -> Inert:
    """A member of an enumeration, by name; nothing is looked up."""
    if type(cls) is not ClassName or type(name) is not str:
        raise RefusedPickle("it takes an attribute of something that is no class")
    return Inert(cls.name, (name,))


#: Class → what stands for an object of it; every other one becomes `Inert`.
CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "torch.Size": _sizes,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "builtins.dict": _ordered,
    "builtins.getattr": _member,
    "__builtin__.getattr": _member,
    "builtins.set": frozen,
    "builtins.frozenset": frozen,
    "__builtin__.set": frozen,
    "__builtin__.frozenset": frozen,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
