"""Do two models of one class hold equal values, beside parameters and buffers?"""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from hydro_hpc.fusion.back_references import content_of
from hydro_hpc.fusion.hidden import HOOKS
from hydro_hpc.fusion.python_state import APART, UNREAD


def first_difference(one: nn.Module, other: nn.Module) -> str:
    """The path of the first attribute in which two models of one class differ by value; empty if
    none does. What cannot be compared differs.
    """
    pair = _Pair(one, other)
    others = dict(other.named_modules())
    for path, module in one.named_modules():
        mine, theirs = vars(module), vars(others[path])
        for name in sorted({*mine, *theirs} - APART - UNREAD):
            if name not in mine or name not in theirs:
                return f"{path}.{name}".lstrip(".")
            own, other_own = _of_hooks(name, mine[name]), _of_hooks(name, theirs[name])
            if not pair.equal(own, other_own):
                return f"{path}.{name}".lstrip(".")
    return ""


class _Pair:
    """Two models. Parts of theirs are equal if they have the same path."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        self._mine, self._theirs = _paths(one), _paths(other)
        self._begun: dict[tuple[int, int], Any] = {}  # kept alive: no id is used twice

    def equal(self, one: Any, other: Any) -> bool:
        if type(one) is not type(other):
            return False
        mine, theirs = self._mine.get(id(one)), self._theirs.get(id(other))
        if mine is not None or theirs is not None:
            return mine == theirs
        if one is other or (id(one), id(other)) in self._begun:
            return True
        if isinstance(one, Tensor):
            return one.dtype == other.dtype and torch.equal(one, other)
        held, also_held = _held(one), _held(other)
        if held is not None and also_held is not None:
            self._begun[id(one), id(other)] = one, other
            return len(held) == len(also_held) and all(map(self.equal, held, also_held))
        try:
            return bool(one == other)
        except Exception:  # a user's class may compare in any way
            return False


def _of_hooks(name: str, value: Any) -> Any:
    """Without the numbers that torch counts hooks with, which no two models share."""
    return [*value.values()] if name.startswith(HOOKS) and isinstance(value, dict) else value


def _paths(model: nn.Module) -> dict[int, str]:
    parts = (*model.named_modules(), *model.named_parameters(), *model.named_buffers())
    return {id(part): path for path, part in parts}


def _held(value: Any) -> list[Any] | None:
    """What makes a value, in order; None if only the value itself can be compared."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | deque):
        return [*value]
    if isinstance(value, nn.Module):
        return [{name: v for name, v in vars(value).items() if name not in UNREAD}]
    if isinstance(value, types.FunctionType):
        cells = [content_of(cell) for cell in value.__closure__ or ()]
        named = (value.__kwdefaults__, vars(value))
        return [value.__code__, id(value.__globals__), value.__defaults__, *named, *cells]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, weakref.ref):
        return [value()]
    return None
