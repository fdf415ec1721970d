"""Values that a forward reads from outside of its model (globals, closures, attributes of classes
and of modules of Python): a graph would freeze them, so it holds only while they stay.

Found by reading the byte code of what forward can reach: the functions that it names, the methods
whose names it has, the functions in containers that it reads. Not of libraries (Python's, torch,
NumPy): of what those read only the environment counts.
"""

from __future__ import annotations

import builtins
import dis
import functools
import sys
import types
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from hydro_hpc.fusion.watching import Look, Unwatchable, is_users
from hydro_hpc.nn.members import Refused

GLOBALS: Final = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL")
# Where code has one of these, it may ask for any attribute.
BY_TEXT: Final = frozenset(
    {"__dict__", "attrgetter", "getattr", "getmembers", "methodcaller", "vars"}
)
LEAVES_RESULTS: Final = "forward leaves its results in a list or dict outside of the model"
OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What byte code names: anything, then globals and variables of outer functions with the
    attributes that it asks them for, and modules that it imports.
    """

    names: frozenset[str]
    globals: frozenset[tuple[str, ...]]
    outer: frozenset[tuple[str, ...]]
    imports: frozenset[str]


class OutsideValues:
    """The values that the forward of one model reads. `state` is equal while they are."""

    def __init__(self, model: nn.Module) -> None:
        self._functions: dict[int, types.FunctionType] = {}
        self._names: set[str] = {"forward"}
        self._reads_by_text = False
        bases = {base for module in model.modules() for base in type(module).__mro__}
        self._classes = sorted(
            [cls for cls in bases if is_users(cls.__module__)],
            key=lambda cls: (cls.__module__, cls.__qualname__),
        )
        self._look: Look | None = None
        self._state: tuple[Hashable, ...] = ()
        known = -1
        while known != len(self._functions):
            known = len(self._functions)
            self._find_in_attributes(model)
            self._look = None
            self.state()

    def state(self) -> tuple[Hashable, ...]:
        """`Refused` if there is something that cannot be looked at in each call."""
        if self._look is None or not self._look.is_unchanged():
            known = -1
            while known != len(self._functions):  # which say what else is read
                known = len(self._functions)
                self._look, self._state = self._look_at_all()
        return self._state

    def take_back_traced(self) -> bool:
        """Says whether forward, since the last `state`, left what only exists while it is traced,
        or under vmap, in a list or dict of the script's, from where it is taken then.
        """
        before = self._look
        self.state()
        if before is None or self._look is None or not self._look.holds_traced:
            return False
        before.put_back()
        return True

    def _find_in_attributes(self, model: nn.Module) -> None:
        """The functions that the model keeps. What else it keeps is its own, and copied with it."""
        for module in model.modules():
            for name, value in vars(module).items():
                if name not in OF_EVERY_MODULE:
                    try:
                        Look(self._counted_names(), self._found).of(value)
                    except Unwatchable:
                        continue

    def _found(self, function: types.FunctionType) -> None:
        if id(function) not in self._functions:
            self._functions[id(function)] = function
            reads = _reads(function.__code__)
            self._names |= reads.names
            self._reads_by_text |= not BY_TEXT.isdisjoint(reads.names)

    def _counted_names(self) -> set[str] | None:
        return None if self._reads_by_text else self._names

    def _look_at_all(self) -> tuple[Look, tuple[Hashable, ...]]:
        look = Look(self._counted_names(), self._found)
        state: list[Hashable] = []
        for what, read in self._everything(look):
            try:
                state.append(read())
            except Unwatchable as why:
                raise Refused(
                    f"forward reads '{what}' from outside of the model, which {why}: read it in "
                    "__init__, or give forward the value as a tensor"
                ) from None
        return look, tuple(state)

    def _everything(self, look: Look) -> Iterator[tuple[str, Any]]:
        """What there is to look at, by name."""
        for cls in self._classes:
            yield cls.__qualname__, functools.partial(look.of, cls)
        for function in list(self._functions.values()):
            reads, namespace = _reads(function.__code__), function.__globals__
            known = [path for path in sorted(reads.globals) if not _is_builtin(namespace, path[0])]
            if known:
                look.named(namespace, sorted({path[0] for path in known}))
            for path in known:
                value = namespace.get(path[0])
                if value is torch.is_grad_enabled:  # by a name of its own, which no trap is under
                    raise Refused("forward asks whether gradients are on")
                yield ".".join(path), functools.partial(look.along, value, path[1:])
            cells = dict(
                zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            )
            for path in sorted(reads.outer):
                if path[0] in cells:
                    yield ".".join(path), functools.partial(look.in_cell, cells[path[0]], path[1:])
            for name in sorted(reads.imports):
                yield name, functools.partial(look.of, sys.modules.get(name))
            given = (function.__defaults__, function.__kwdefaults__)
            yield function.__qualname__, functools.partial(look.of, given)


def _is_builtin(namespace: dict[str, Any], name: str) -> bool:
    return name not in namespace and hasattr(builtins, name)


@functools.lru_cache(maxsize=4096)
def _reads(code: types.CodeType) -> Reads:
    names: set[str] = set()
    paths: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    imports: set[str] = set()
    for own in _codes(code):
        names |= {*own.co_names, *(c for c in own.co_consts if isinstance(c, str))}
        instructions = list(dis.get_instructions(own))
        for place, instruction in enumerate(instructions):
            is_global = instruction.opname in GLOBALS
            if is_global or "DEREF" in instruction.opname:
                attributes = _attributes_after(instructions, place)
                paths[is_global].add((str(instruction.argval), *attributes))
            elif instruction.opname == "IMPORT_NAME":
                imports.add(str(instruction.argval))
    return Reads(
        names=frozenset(names),
        globals=frozenset(paths[True]),
        outer=frozenset(paths[False]),
        imports=frozenset(imports),
    )


def _attributes_after(instructions: list[dis.Instruction], place: int) -> Iterator[str]:
    for instruction in instructions[place + 1 :]:
        if instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            return
        yield str(instruction.argval)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's own code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
