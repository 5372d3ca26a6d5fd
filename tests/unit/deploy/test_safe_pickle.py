"""Pickles of checkpoints: read as data, and refused when they would do anything else."""

import argparse
import collections
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalhpc.deploy import safe_pickle
from evalhpc.deploy.pickle_objects import ClassName, Inert, Tensor
from evalhpc.errors import ModelError

DATA = Path(__file__).parent / "data"
INDEX = (DATA / "megatron-tp2" / "iter_0000010" / ".metadata").read_bytes()
with zipfile.ZipFile(DATA / "megatron-tp2" / "iter_0000010" / "common.pt") as _archive:
    COMMON = _archive.read("common/data.pkl")


class _Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _attacks(proof: Path) -> dict[str, bytes]:
    command = f"open({str(proof)!r}, 'w').close()"
    namespace = b"\x80\x02cargparse\nNamespace\n"
    text = struct.pack("<I", len(str(proof))) + str(proof).encode()
    return {
        "os.system": pickle.dumps(_Calls(os.system, f"touch {proof}"), 2),
        "builtins.exec": pickle.dumps(_Calls(exec, command)),
        "eval in a list": pickle.dumps([1, {"a": _Calls(eval, command)}]),
        "nested": pickle.dumps(argparse.Namespace(x=_Calls(os.mkdir, _Calls(str, str(proof))))),
        "open": pickle.dumps(_Calls(open, str(proof), "w"), 4),
        "getattr": b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\nX" + text + b"\x86R.",
        "dotted name": b"\x80\x04\x8c\x08argparse\x8c\x0eNamespace.__new\x93.",
        "dotted framework": b"\x80\x04\x8c\x0dmegatron.core\x8c\x09os.system\x93.",
        "text INST": b"(S'touch " + str(proof).encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nX" + text + b"o.",
        "extension": b"\x80\x02\x82\x01.",
        "state of a class": namespace + b"}X\x08\x00\x00\x00__init__cos\nsystem\nsb.",
        "state of a class, inert": namespace + b"}X\x08\x00\x00\x00__init__K\x01sb.",
        "a call of data": b"\x80\x02]X" + text + b"\x85R.",
        "a persistent id": b"\x80\x02X" + text + b"Q.",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(_attacks(Path("x"))))
def test_attacks_are_refused(name: str, tmp_path: Path) -> None:
    """A pickle that would run code is a ModelError, and nothing of it has run."""
    proof = tmp_path / "proof"
    with pytest.raises(ModelError, match="is not read"):
        safe_pickle.load(_attacks(proof)[name], "x")
    assert not proof.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """The standard library's loader does run them, so the test above means something."""
    for name in ("builtins.exec", "eval in a list", "open", "nested"):
        proof = tmp_path / name.replace(" ", "_")
        pickle.loads(_attacks(proof)[name])
        assert proof.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_enumerations_by_name(protocol: int) -> None:
    """An enum's member, which Python 3.11.2 saves as a getattr, is its class and its name."""
    data = pickle.dumps(_Calls(getattr, argparse.Namespace, "auto"), protocol)
    found = safe_pickle.load(data, "x")
    assert (type(found), found.name, found.arguments) == (Inert, "argparse.Namespace", ("auto",))
    for owner in ("text", [1], argparse.Namespace()):
        with pytest.raises(ModelError, match="something that is no class"):
            safe_pickle.load(pickle.dumps(_Calls(getattr, owner, "auto")), "x")


def test_setstate_is_not_called() -> None:
    """State stays data: `__setstate__`, `__class__` and `__dict__` in it change nothing."""
    state = {"__setstate__": 1, "__class__": 2, "__dict__": {"name": 3}, "name": 4, "state": 5}
    namespace = argparse.Namespace()
    vars(namespace).update(state)
    found = safe_pickle.load(pickle.dumps(namespace), "x")
    assert type(found) is Inert
    assert found.name == "argparse.Namespace"
    assert found.state == state


def test_the_refused_class_is_named() -> None:
    """The error says which class was not known, and what can be done."""
    with pytest.raises(ModelError, match=r"'posix\.system', which is not known") as caught:
        safe_pickle.load(pickle.dumps(os.system), "ckpt/common.pt")
    assert caught.value.what.startswith("ckpt/common.pt")
    assert caught.value.hint


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data(protocol: int) -> None:
    """Plain values come out as they went in, in every binary protocol."""
    shared = [1, 2]
    value = {
        "numbers": [0, -1, 1 << 40, -(1 << 200), 1.5, True, False, None],
        "text": "é" * 300,
        "bytes": b"\x00\xff" * 200,
        ("a", 1): (1, (2, (3, (4, 5)))),
        "shared": [shared, shared],
        "set": frozenset({1, "b"}),
    }
    found = safe_pickle.load(pickle.dumps(value, protocol), "x")
    assert found == value
    assert found["shared"][0] is found["shared"][1]


def test_containers_of_the_library() -> None:
    """Ordered and default dicts are dicts, deques are lists, sets are sets."""
    value = [
        collections.OrderedDict(a=1),
        collections.defaultdict(int, b=2),
        collections.deque([3]),
        {4},
    ]
    assert safe_pickle.load(pickle.dumps(value), "x") == [{"a": 1}, {"b": 2}, [3], {4}]


def test_real_common_state() -> None:
    """Megatron's arguments are read; its enumerations and torch's dtypes stay names."""
    arguments = safe_pickle.load(COMMON, "x")["args"]
    assert arguments.get("num_query_groups") == 4
    assert arguments.get("attention_backend").name.endswith("AttnBackend")
    dtype = arguments.get("params_dtype")
    assert type(dtype) is ClassName
    assert dtype.name == "torch.bfloat16"


def test_tensors_have_shape_and_dtype_only() -> None:
    """A tensor of a torch archive becomes its shape and dtype; its storage is never opened."""
    data = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
        b"BFloat16Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQK\x00K\x04K\x02\x86"
        b"K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtR."
    )
    found = safe_pickle.load(data, "x")
    assert type(found) is Tensor
    assert (found.shape, found.dtype) == ((4, 2), "bfloat16")


def _bombs() -> dict[str, bytes]:
    memo = struct.pack("<I", 0xFFFFFFFF)
    deep = b"\x80\x02)" + b"\x85" * 100_000
    twice = b"\x80\x02)" + b"q\x00h\x00\x86" * 60
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    encode = b"c_codecs\nencode\nq\x01h\x00\x85R"
    return {
        "a key that hashes deep": deep + b"q\x00}h\x00K\x01s.",
        "a key that hashes for ever": twice + b"q\x00}h\x00K\x01s.",
        "keys that collide": b"\x80\x02}\x8a\x09"
        + ((1 << 61) - 1).to_bytes(9, "little") + b"K\x01s.",
        "a long integer without bytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "text without bytes": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
        "one text encoded again and again": b"\x80\x02" + text + b"q\x00" + encode * 100 + b".",
        "a memo index without value": b"\x80\x02j" + memo + b".",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(_bombs()))
def test_bombs_are_refused(name: str) -> None:
    """Small pickles that would take much time or memory are refused at once."""
    with pytest.raises(ModelError):
        safe_pickle.load(_bombs()[name], "x")


def test_a_large_memo_index_costs_nothing() -> None:
    """The memo is no array: an index of 2³² - 1 stores one value."""
    data = b"\x80\x02K\x07r\xff\xff\xff\xff."
    assert safe_pickle.load(data, "x") == 7


def test_deep_nesting_is_data() -> None:
    """Values nested deeper than Python's stack are read without recursion."""
    found = safe_pickle.load(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", "x")
    assert len(found) == 1


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Size and number of operations are limited."""
    monkeypatch.setattr(safe_pickle, "MAX_OPERATIONS", 100)
    with pytest.raises(ModelError, match="more than 100 operations"):
        safe_pickle.load(b"\x80\x02" + b"N0" * 1000 + b"N.", "x")
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 10)
    with pytest.raises(ModelError, match="exceed 10"):
        safe_pickle.load(b"\x80\x02" + b"N" * 20, "x")


@given(
    st.sampled_from([INDEX, COMMON]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=6),
    st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_mutated_pickles(data: bytes, changes: list[tuple[float, bytes]], cut: float) -> None:
    """Whatever is changed in a real pickle, it is read as data or refused with a ModelError."""
    mutated = bytearray(data)
    for place, replacement in changes:
        start = int(place * len(mutated))
        mutated[start : start + len(replacement)] = replacement
    for candidate in (bytes(mutated), bytes(mutated[: int(cut * len(mutated))])):
        try:
            safe_pickle.load(candidate, "x")
        except ModelError:
            pass


_CODES = st.sampled_from([code[0] for code in safe_pickle._OPERATIONS])


@given(st.lists(st.one_of(_CODES, st.integers(0, 255)), max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_operations(codes: list[int]) -> None:
    """Any sequence of operations is read as data or refused with a ModelError."""
    try:
        safe_pickle.load(bytes(codes), "x")
    except ModelError:
        pass
