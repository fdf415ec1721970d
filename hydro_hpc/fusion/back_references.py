"""What a model holds that leads back to it and that Python's own deepcopy keeps as it is: functions
(by their closures and defaults, also through other functions, containers and objects) and weak
references. A copy that kept them would go on using the original's layers.

Functions that write a variable of their closure get one per copy, too. Not found: what a
function reads from globals, or from a class.
"""

from __future__ import annotations

import copy
import copyreg
import dis
import functools
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.hidden import is_pause_point

APART: Final = frozenset({"_parameters", "_buffers", "_modules"})
# Types of which nothing leads on.
ENDS: Final = frozenset(
    {
        int, float, str, bool, complex, bytes, type(None), type, types.ModuleType, torch.dtype,
        torch.device, torch.Size, types.BuiltinFunctionType,
    }
)  # fmt: skip
PROXIES: Final[tuple[type, ...]] = (weakref.ProxyType, weakref.CallableProxyType)
WEAK: Final[tuple[type, ...]] = (weakref.ref, *PROXIES)
WEAK_CONTAINERS: Final = (
    weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet, weakref.WeakMethod,
)  # fmt: skip


class BackReferences:
    """Those of one model. `prepare` a memo for deepcopy with what stands for them, and `complete`
    that afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        parts = [*model.modules(), *model.parameters(), *model.buffers()]
        self._parts = {id(part): part for part in parts}
        self._found: dict[int, Any] = {}  # which keeps it alive: no id is used twice
        self._holders: dict[int, list[int]] = {}
        self._walk(list(_held(model)))
        functions = [x for x in self._found.values() if isinstance(x, types.FunctionType)]
        ends = {*self._parts, *(id(cell) for f in functions for cell in _rebound_cells(f))}
        self._leading = self._leading_to(ends)
        self._functions = [f for f in functions if id(f) in self._leading]
        self._cells: dict[int, tuple[types.CellType, types.CellType]] = {}
        self._shells: list[tuple[nn.Module, nn.Module]] = []

    def leads_back(self, value: Any) -> bool:
        return id(value) in self._leading

    def prepare(self, memo: dict[int, Any]) -> None:
        """FusionError if something can have no copy of its own. Parameters and buffers are to be in
        the memo.
        """
        for function in self._functions:
            memo[id(function)] = self._with_cells(function)
        for value in [x for x in self._found.values() if id(x) in self._leading]:
            if isinstance(value, WEAK_CONTAINERS):
                raise FusionError(
                    f"it keeps parts of itself in a {type(value).__name__}, of which a copy would "
                    "keep the original's: use a list or a dict"
                )
            if isinstance(value, WEAK):
                self._copy_weak(value, memo)

    def complete(self, memo: dict[int, Any]) -> None:
        """After the deepcopy."""
        for module, shell in self._shells:
            shell.__setstate__(copy.deepcopy(vars(module), memo))
        for function in self._functions:
            fresh = memo[id(function)]
            fresh.__defaults__ = _copied_each(function.__defaults__, memo)
            if function.__kwdefaults__ is not None:
                own = {name: _copied(v, memo) for name, v in function.__kwdefaults__.items()}
                fresh.__kwdefaults__ = own
            vars(fresh).update(copy.deepcopy(vars(function), memo))
        for cell, own_cell in self._cells.values():
            for content in content_of(cell):
                own_cell.cell_contents = _copied(content, memo)

    def _walk(self, pending: list[Any]) -> None:
        self._found.update((id(value), value) for value in pending)
        while pending:
            holder = pending.pop()
            for part in self._leads_on(holder):
                if type(part) in ENDS:
                    continue
                self._holders.setdefault(id(part), []).append(id(holder))
                if id(part) not in self._found and id(part) not in self._parts:
                    self._found[id(part)] = part
                    pending.append(part)

    def _leads_on(self, value: Any) -> Iterable[Any]:
        if isinstance(value, WEAK):
            return [part for part in _referents(value) if id(part) in self._parts]
        return leads_on(value)

    def _leading_to(self, ends: Iterable[int]) -> set[int]:
        leading: set[int] = set()
        pending = list(ends)
        while pending:
            number = pending.pop()
            if number not in leading:
                leading.add(number)
                pending += self._holders.get(number, ())
        return leading

    def _with_cells(self, function: types.FunctionType) -> types.FunctionType:
        """The same function with empty cells of its own; functions that share a cell go on to."""
        for cell in function.__closure__ or ():
            self._cells.setdefault(id(cell), (cell, types.CellType()))
        cells = tuple(self._cells[id(cell)][1] for cell in function.__closure__ or ())
        name, code = function.__name__, function.__code__
        fresh = types.FunctionType(code, function.__globals__, name, None, cells)
        for attribute in functools.WRAPPER_ASSIGNMENTS:
            setattr(fresh, attribute, getattr(function, attribute))
        return fresh

    def _copy_weak(self, value: Any, memo: dict[int, Any]) -> None:
        for part in _referents(value):
            if id(part) not in memo:
                self._add_shell(part, memo)
            is_proxy = isinstance(value, PROXIES)
            make = weakref.proxy if is_proxy else weakref.ref
            memo[id(value)] = make(memo[id(part)])

    def _add_shell(self, module: nn.Module, memo: dict[int, Any]) -> None:
        """What will be the copy of a module: a weak reference needs it to exist."""
        make, given, *_ = cast("tuple[Any, ...]", module.__reduce_ex__(4))
        plain = make is copyreg.__newobj__ and len(given) == 1  # type: ignore[attr-defined]
        if not plain or hasattr(module, "__deepcopy__"):
            raise FusionError(
                f"it has a weak reference to a {type(module).__name__}, which has a way of its own "
                "to be copied: keep the module itself, in a list"
            )
        memo[id(module)] = shell = make(*given)
        self._shells.append((module, shell))


def leads_on(value: Any) -> Iterable[Any]:
    """What an object holds, as far as Python shows it."""
    if isinstance(value, types.FunctionType):
        return _held_by_function(value)
    if isinstance(value, types.CellType):
        return content_of(value)
    if isinstance(value, types.MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, type | types.ModuleType) or is_pause_point(value):
        return ()
    held: list[Any] = list(attributes_of(value).values())
    if isinstance(value, nn.Module | Tensor):
        return held
    if isinstance(value, functools.partial):
        held += [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, dict):
        held += [*dict.keys(value), *dict.values(value)]
    elif isinstance(value, list | tuple | set | frozenset | deque):
        held += value
    return held


def attributes_of(value: Any) -> dict[str, Any]:
    """Of an object: its own, those in slots too."""
    found: dict[str, Any] = {}
    cls: Any = type(value)
    for name, member in _slots_of(cls):
        try:
            found[name] = member.__get__(value)
        except AttributeError:  # not set
            continue
    own = getattr(value, "__dict__", None)
    return {**found, **own} if isinstance(own, dict) else found


@functools.lru_cache(maxsize=1024)
def _slots_of(cls: type) -> tuple[tuple[str, types.MemberDescriptorType], ...]:
    """By name. Those of C have no `__slots__` and say nothing of what a user keeps."""
    return tuple(
        (name, member)
        for base in cls.__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    )


def _held(model: nn.Module) -> Iterator[Any]:
    """Attributes of modules, hooks among them, and what hangs on parameters; not our own hooks."""
    for module in model.modules():
        for name, value in vars(module).items():
            is_nothing = not value if type(value) in (dict, OrderedDict) else type(value) in ENDS
            if name not in APART and not is_nothing:
                yield value
    for parameter in model.parameters():
        yield from vars(parameter).values()
        for hooks in (
            parameter._backward_hooks,
            getattr(parameter, "_post_accumulate_grad_hooks", None),
        ):
            yield from (hooks or {}).values()


def _held_by_function(function: types.FunctionType) -> Iterator[Any]:
    yield from function.__closure__ or ()
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()


def content_of(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not filled yet
        return ()


def _referents(value: Any) -> list[Any]:
    """What a weak reference is to, if that still lives."""
    try:
        if isinstance(value, PROXIES):
            return [cast("Any", value.__reduce_ex__).__self__]
    except ReferenceError:
        return []
    referent = value()
    return [] if referent is None else [referent]


def _rebound_cells(function: types.FunctionType) -> list[types.CellType]:
    """Those of the closure that the function, or one inside it, writes."""
    names = _rebound(function.__code__) if function.__closure__ else frozenset()
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [cell for name, cell in cells if name in names]


@functools.lru_cache(maxsize=1024)
def _rebound(code: types.CodeType) -> frozenset[str]:
    written = {
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            written |= _rebound(constant)
    return frozenset(written & {*code.co_freevars})


def _copied_each(values: tuple[Any, ...] | None, memo: dict[int, Any]) -> tuple[Any, ...] | None:
    return None if values is None else tuple(_copied(value, memo) for value in values)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A bare `object()` stands for nothing given, and is compared by identity."""
    return value if type(value) is object else copy.deepcopy(value, memo)
