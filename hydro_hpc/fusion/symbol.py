"""What stands for a tensor while a forward is traced, and what it must not be asked.

Code may ask and go on when the answer is an error (`try: int(n) except TypeError: ...`): so what
was asked is noted in the tracer too, and the trace is thrown away.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable
from typing import Any, Final, Never

from torch import fx

# The same tensor has other answers to these when it is one of the bundle's.
NOT_KNOWN: Final = frozenset(
    {"_backward_hooks", "_base", "_version", "data_ptr", "grad", "grad_fn", "is_leaf"}
    | {"output_nr", "requires_grad", "retains_grad", "storage_offset", "untyped_storage"}
)
MATCH_CLASS: Final = dis.opmap["MATCH_CLASS"]


def _augmented(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A method for an augmented assignment: a new value, where a tensor would be written over.
    Whoever else has that under another name must not read it afterwards.
    """

    def method(symbol: Any, other: Any) -> Any:
        new = function(symbol, other)
        symbol.tracer.overwritten.append((symbol.node, new.node))
        return new

    return method


class Symbol(fx.Proxy):
    """A symbol whose questions are noted."""

    def __getattr__(self, name: str) -> Any:
        if name in NOT_KNOWN:
            self.refuse(f"asks for .{name} of a traced value")
        return super().__getattr__(name)

    def __int__(self) -> int:
        self.refuse("reads the value of a tensor")

    def __float__(self) -> float:
        self.refuse("reads the value of a tensor")

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Its own class, but for `case Tensor():`, which nothing can answer."""
        frame = sys._getframe(1)
        if frame.f_code.co_code[frame.f_lasti] == MATCH_CLASS:
            self.refuse("asks for the class of a traced value")
        return type(self)

    def stands_for(self) -> Any:
        """Something of the class that the value will have."""
        self.refuse("asks for the class of a traced value")

    def refuse(self, what: str) -> Never:
        """Raises, and notes that it did."""
        self.tracer.note(what)  # type: ignore[attr-defined]
        raise TypeError(f"it {what}")

    __iadd__ = _augmented(operator.add)
    __isub__ = _augmented(operator.sub)
    __imul__ = _augmented(operator.mul)
    __itruediv__ = _augmented(operator.truediv)
    __ipow__ = _augmented(operator.pow)
    __iand__ = _augmented(operator.and_)
    __ior__ = _augmented(operator.or_)
