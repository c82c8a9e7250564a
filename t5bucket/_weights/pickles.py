# pickles.py - check, without running it, that a pickle makes only tensors in plain containers.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pickletools
import re
from typing import Any, NamedTuple

# The functions that state dicts call. PyTorch allows more, and a program can allow others.
ALLOWED = re.compile(
    r"collections (OrderedDict|Counter)|(__builtin__|builtins) set"
    r"|torch (Size|device|\w+Storage|b?float\w+|u?int\w+|bool|complex\w+)"
    r"|torch\.storage (Untyped|Typed)Storage|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor(_v[23])?|parameter)"
)
REBUILDING = re.compile(r"torch\._utils \w+|torch\.nn\.parameter Parameter")
CONVERTING = re.compile(r"collections \w+|\w+ set|torch (Size|device)")
MAX_STACK = 100_000  # objects; pickle pushes a thousand items at a time
MAX_DEPTH = 100  # of tuples in tuples: hashing them is recursive


class _Value(NamedTuple):
    """What is known about an object: its kind; for tuples also their items and their depth."""

    kind: str = ""
    parts: frozenset[str] = frozenset()
    depth: int = 0


MARK, PLAIN, TENSOR = _Value("mark"), _Value(), _Value("tensor")
PUSHING = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "EMPTY_DICT",
        "EMPTY_LIST",
        "EMPTY_SET",
    ]
)
SMALL_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NUM_POPPED = {"APPEND": 1, "SETITEM": 2, "PROTO": 0, "FRAME": 0, "STOP": 0}


def check_pickle(content: bytes) -> None:
    """Refuse code, and pickles that take time or memory out of proportion to their size.

    Raises
    ------
    ValueError
        If the pickle does something that no state dict does.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(content):
        machine.run(opcode.name, argument)


class _Machine:
    """Simulates a pickle without making its objects: it keeps what is known about each."""

    def __init__(self) -> None:
        self._stack: list[_Value] = []
        self._memo: dict[Any, _Value] = {}

    def run(self, opcode: str, argument: Any) -> None:
        """Simulate one instruction."""
        stack = self._stack
        if opcode in PUSHING or opcode == "MARK":
            stack.append(PLAIN if opcode in PUSHING else MARK)
            if len(stack) > MAX_STACK:
                raise ValueError("its pickle has too many objects on its stack")
        elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode in NUM_POPPED:
            self._pop(NUM_POPPED[opcode])
        elif opcode in ("APPENDS", "SETITEMS", "ADDITEMS"):
            self._pop_to_mark()
        elif opcode in SMALL_TUPLES:
            stack.append(_tuple_of(self._pop(SMALL_TUPLES[opcode])))
        elif opcode == "TUPLE":
            stack.append(_tuple_of(self._pop_to_mark()))
        elif opcode == "GLOBAL":
            stack.append(_Value(_allowed(argument)))
        elif opcode == "BINPERSID":
            self._pop(1)
            stack.append(TENSOR)  # its storage
        elif opcode == "REDUCE":
            stack.append(_call(*self._pop(2)))
        elif opcode == "BUILD" and stack[-2] != TENSOR:
            self._pop(1)
        else:
            raise ValueError(f"it holds code ({opcode}), none of which was run")

    def _pop(self, count: int) -> list[_Value]:
        start = len(self._stack) - count
        if start < 0:
            raise ValueError("its pickle is damaged")
        popped = self._stack[start:]
        del self._stack[start:]
        return popped

    def _pop_to_mark(self) -> list[_Value]:
        for count, value in enumerate(reversed(self._stack)):
            if value is MARK:
                popped = self._pop(count)
                self._pop(1)
                return popped
        raise ValueError("its pickle is damaged")


def _tuple_of(values: list[_Value]) -> _Value:
    depth = 1 + max((value.depth for value in values), default=0)
    if depth > MAX_DEPTH:
        raise ValueError("its pickle nests tuples too deeply")
    return _Value("tuple", frozenset(value.kind for value in values), depth)


def _allowed(name: Any) -> str:
    if ALLOWED.fullmatch(str(name)):
        return str(name)
    shown = str(name).replace(" ", ".")
    raise ValueError(f"it holds code, {shown}, none of which was run: save a state_dict()")


def _call(function: _Value, arguments: _Value) -> _Value:
    """Find what a call returns; refuse containers made of a tensor, which would list its items."""
    if arguments.kind == "tuple":
        if REBUILDING.fullmatch(function.kind):
            return TENSOR
        if CONVERTING.fullmatch(function.kind) and "tensor" not in arguments.parts:
            return _Value("", depth=arguments.depth)
    name = function.kind.replace(" ", ".") or "an object"
    raise ValueError(f"it calls {name} in a way that no state_dict() does: none of it was run")
