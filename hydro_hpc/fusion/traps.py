"""What a forward does that leaves no call in a trace: made to leave one, or to be noticed."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from hydro_hpc.fusion.symbol import Symbol

DRAWS: Final = frozenset({torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal})
# What may be asked of a parameter itself: it does not depend on its values.
PROPERTIES: Final = (
    "device",
    "dtype",
    "is_cuda",
    "is_leaf",
    "layout",
    "ndim",
    "requires_grad",
    "shape",
)
FACTS: Final[frozenset[Any]] = frozenset(
    {
        Tensor.dim, Tensor.element_size, Tensor.is_floating_point, Tensor.numel, Tensor.size,
        Tensor.stride, *(getattr(Tensor, name).__get__ for name in PROPERTIES),
    }
)  # fmt: skip
_is_grad_enabled, _is_tensor = torch.is_grad_enabled, torch.is_tensor
_isinstance = builtins.isinstance


class Traps(TorchFunctionMode):
    """Records the making of random tensors, which has no symbol among its arguments; refuses
    calls with one of the model's own tensors (`own`, by identity), as `self.parameters()` gives
    them: a graph would freeze what they give.

    `records` says whether what is called now belongs to the forward that is traced.
    """

    def __init__(
        self,
        create_proxy: Callable[..., Any],
        records: Callable[[], bool],
        own: Collection[int],
    ) -> None:
        super().__init__()
        self._create_proxy, self._records, self._own = create_proxy, records, own

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        given = kwargs or {}
        if self._records():
            if func in DRAWS:
                return self._create_proxy("call_function", func, args, given)
            if func not in FACTS and self._touches_own((args, given)):
                raise TypeError("it uses its parameters other than by name")
        return func(*args, **given)

    def _touches_own(self, given: Any) -> bool:
        return any(id(x) in self._own for x in pytree.tree_leaves(given))


def gradients_are_on() -> bool:
    """As torch's own function, which is replaced while a forward is traced."""
    return bool(_is_grad_enabled())


@contextmanager
def patched() -> Iterator[None]:
    """Within it a user's `autograd.Function` raises: its forward would be followed, its backward
    lost. So does asking whether gradients are on: a graph runs in either case. Whether a symbol
    is a tensor, `isinstance` says as of the value that it will have.
    """
    function: Any = torch.autograd.Function
    usual = function.__dict__["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, fx.Proxy) for x in [*args, *kwargs.values()]):
            raise TypeError(f"{cls.__name__} has a backward of its own")
        return usual.__get__(None, cls)(*args, **kwargs)

    def is_grad_enabled() -> bool:
        if _is_users(sys._getframe(1)):
            raise TypeError("it asks whether gradients are on")
        return gradients_are_on()

    def isinstance_of(x: Any, kinds: Any) -> bool:
        if _isinstance(x, Symbol) and _is_users(sys._getframe(1)):
            return _isinstance(x.stands_for(), kinds)
        return _isinstance(x, kinds)

    def is_tensor(x: Any) -> bool:
        return _isinstance(x.stands_for() if _isinstance(x, Symbol) else x, Tensor)

    function.apply = classmethod(apply)
    torch.is_grad_enabled = is_grad_enabled
    builtins.isinstance, torch.is_tensor = isinstance_of, is_tensor  # type: ignore[assignment]
    try:
        yield
    finally:
        function.apply = usual
        torch.is_grad_enabled = _is_grad_enabled
        builtins.isinstance, torch.is_tensor = _isinstance, _is_tensor


def _is_users(frame: FrameType) -> bool:
    """Says whether code of neither torch nor ours runs in it."""
    return frame.f_globals.get("__name__", "").partition(".")[0] not in ("torch", "hydro_hpc")
