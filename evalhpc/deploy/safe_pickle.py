"""Pickles as plain data: nothing is imported and nothing of the pickle is ever called.

A small stack machine of its own, since `pickle.Unpickler` allocates memory as the pickle demands
and calls `__setstate__` and `__reduce__` of what it finds. Opcodes: `pickletools` of the standard
library.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from evalhpc.deploy.pickle_names import is_allowed
from evalhpc.deploy.pickle_objects import (
    CONSTRUCTORS,
    ClassName,
    Inert,
    RefusedPickle,
    Tensor,
    checked_key,
    checked_pairs,
    frozen,
    storage_of,
)
from evalhpc.errors import ModelError

#: The index of a checkpoint of 400 B parameters on 1,000 ranks takes some 50 MB.
MAX_BYTES = 256 * 1024 * 1024
MAX_OPERATIONS = 20_000_000
#: Elements that are looked at more than once, in all: a shared list may not be copied for ever.
_MAX_WORK = 64 * 1024 * 1024
_MAX_NAME = 256


class _Mark:
    """The stack's marker."""


def load(data: bytes, source: str) -> Any:
    """The value of a pickle: plain data, `Inert`, `Tensor`; `source` is for the message.

    Raises ModelError for a class that is not known to be data, for what is no pickle, and for one
    beyond MAX_BYTES or MAX_OPERATIONS.
    """
    if len(data) > MAX_BYTES:
        raise _refusal(source, f"its {len(data)} bytes exceed {MAX_BYTES}")
    try:
        return _Machine(data).run()
    except RefusedPickle as error:
        raise _refusal(source, str(error)) from error
    except (
        # What the standard library's readers raise for damaged arguments, and plain Python for
        # operands of the wrong kind or number.
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise _refusal(source, f"damaged ({type(error).__name__}: {str(error)[:80]})") from error


def _refusal(source: str, why: str) -> ModelError:
    return ModelError(
        f"{source} is not read: {why}",
        cause="a damaged file, or a pickle that would run code when it is loaded",
        hint="ask who wrote the checkpoint, copy it again, or save it without that object",
    )


class _Machine:
    """Runs the opcodes that data needs; any other is refused before its argument is read."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.work = 0

    def run(self) -> Any:
        """The value that the pickle leaves behind."""
        for step, arg in self._steps():
            if step is None:
                if len(self.stack) != 1:
                    raise RefusedPickle("damaged: it leaves no single value")
                return _value(self.stack[0])
            step(self, arg)
        raise RefusedPickle("it ends too early")

    def _steps(self) -> Iterator[tuple[Callable[[_Machine, Any], None] | None, Any]]:
        for _ in range(MAX_OPERATIONS):
            code = self.stream.read(1)
            if not code:
                return
            try:
                step, reader = _OPERATIONS[code]
            except KeyError:
                raise RefusedPickle(f"the operation {_name(code)} is no data") from None
            yield step, reader(self.stream) if reader else None
        raise RefusedPickle(f"more than {MAX_OPERATIONS} operations")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        """The value on top, which may not be the marker."""
        return _value(self.stack.pop())

    def pop_mark(self) -> list[Any]:
        """All values above the last marker."""
        items: list[Any] = []
        while not isinstance(value := self.stack.pop(), _Mark):
            items.append(value)
        items.reverse()
        return items

    def top(self, kind: type[Any]) -> Any:
        """The value on top, which must be of this very kind."""
        value = self.stack[-1]
        if type(value) is not kind:
            raise RefusedPickle(f"damaged: {type(value).__name__} in the place of {kind.__name__}")
        return value

    def put(self, index: int) -> None:
        self.memo[index] = _value(self.stack[-1])

    def name_class(self, module: Any, name: Any) -> None:
        """Pushes a class of the allow-list, by name."""
        shown = f"{module}.{name}"[:_MAX_NAME]
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedPickle("damaged: a class without a name")
        if not is_allowed(module, name):
            raise RefusedPickle(f"it names {shown!r}, which is not known to be data")
        self.push(ClassName(shown))

    def construct(self, cls: Any, arguments: Any) -> None:
        """Pushes what `cls(*arguments)` would be, as data."""
        if type(cls) is not ClassName or type(arguments) is not tuple:
            raise RefusedPickle("it calls something that is no class")
        self.spend(*arguments)
        make = CONSTRUCTORS.get(cls.name)
        self.push(make(*arguments) if make else Inert(cls.name, arguments))

    def build(self) -> None:
        """Gives the object below its state; classes and containers take none."""
        state = self.pop()
        self.spend(state, *(state if type(state) is tuple else ()))
        target = self.stack[-1]
        if type(target) is dict or type(target) is Tensor:
            return  # an OrderedDict's or Parameter's attributes: nothing of ours
        if type(target) is not Inert:
            raise RefusedPickle("it sets the state of something that is no object")
        if type(state) is tuple and len(state) == 2 and type(state[1]) is dict:
            state = {**(state[0] or {}), **state[1]}  # of a class with slots
        if type(state) is dict and all(type(key) is str for key in state):
            target.state.update(state)
        else:
            target.raw_state = state

    def spend(self, *values: Any) -> None:
        """Counts the elements of `values`, which are about to be copied or checked."""
        self.work += sum(len(value) for value in values if hasattr(value, "__len__"))
        if self.work > _MAX_WORK:
            raise RefusedPickle(f"more than {_MAX_WORK} elements are copied")

    def set_items(self, pairs: list[Any]) -> None:
        """Adds keys and values, in turn, to the dict on top."""
        target = self.top(dict)
        if len(pairs) % 2:
            raise RefusedPickle("damaged: a key without a value")
        target.update(checked_pairs(zip(pairs[::2], pairs[1::2], strict=True)))


def _value(value: Any) -> Any:
    if isinstance(value, _Mark):
        raise RefusedPickle("damaged: a marker in the place of a value")
    return value


def _name(code: bytes) -> str:
    found = [op.name for op in pickletools.opcodes if op.code.encode("latin-1") == code]
    return found[0] if found else repr(code)


def _none(machine: _Machine, _: Any) -> None:
    """An operation without effect on the value."""


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return step


def _append(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(list).extend(items)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _add_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(set).update(map(checked_key, items))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name_class(module, name)


def _new(machine: _Machine, _: Any) -> None:
    arguments, cls = machine.pop(), machine.pop()
    machine.construct(cls, arguments)


def _new_with_names(machine: _Machine, _: Any) -> None:
    names, arguments, cls = machine.pop(), machine.pop(), machine.pop()
    if type(cls) is not ClassName or type(arguments) is not tuple or type(names) is not dict:
        raise RefusedPickle("it calls something that is no class")
    machine.push(Inert(cls.name, arguments, {str(key): value for key, value in names.items()}))


_Step = Callable[[_Machine, Any], None]
#: Text operations of protocol 0 and those of INST, OBJ, EXT and buffers are left out on purpose.
_STEPS: dict[str, _Step | None] = {
    "PROTO": _none,
    "FRAME": _none,
    "STOP": None,
    "MARK": lambda m, _: m.push(_Mark()),
    "POP": lambda m, _: (m.stack.pop(), None)[1],
    "POP_MARK": lambda m, _: (m.pop_mark(), None)[1],
    "DUP": lambda m, _: m.push(_value(m.stack[-1])),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    **dict.fromkeys(
        (
            "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
            "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING",
            "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
        ),
        lambda m, arg: m.push(arg),
    ),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "LIST": lambda m, _: m.push(m.pop_mark()),
    "FROZENSET": lambda m, _: m.push(frozen(m.pop_mark())),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "ADDITEMS": _add_items,
    "BINPUT": lambda m, arg: m.put(arg),
    "LONG_BINPUT": lambda m, arg: m.put(arg),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "BINGET": lambda m, arg: m.push(m.memo[arg]),
    "LONG_BINGET": lambda m, arg: m.push(m.memo[arg]),
    "GLOBAL": lambda m, arg: m.name_class(*arg.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _new,
    "NEWOBJ": _new,
    "NEWOBJ_EX": _new_with_names,
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.push(storage_of(m.pop())),
}  # fmt: skip
_OPERATIONS: dict[bytes, tuple[_Step | None, Callable[[Any], Any] | None]] = {
    op.code.encode("latin-1"): (_STEPS[op.name], op.arg.reader if op.arg else None)
    for op in pickletools.opcodes
    if op.name in _STEPS
}
