"""Calls that are made once per slot, with what is the slot's own: its rows, module and stream.

Exact for anything, since it is what happens unfused. Slots whose call raises fail alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.rows import blank_like, own_rows, stack_slots
from hydro_hpc.fusion.rules import describe
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.nn.members import Refused
from hydro_hpc.nn.randomness import SlotStreams

# What they return depends on values, or has a shape that does.
READ_VALUES: Final = frozenset(
    {
        "__bool__", "__float__", "__int__", "argwhere", "bool", "float", "int", "item",
        "masked_select", "nonzero", "numpy", "tolist", "unique", "unique_consecutive",
    }
)  # fmt: skip


class SlotCalls:
    """Calls something for every active slot of a bundle; unless slots `fail_alone`, what a call
    raises comes through.
    """

    def __init__(
        self, state: StackedState, streams: SlotStreams, *, fail_alone: bool = True
    ) -> None:
        self.state, self.streams, self._fail_alone = state, streams, fail_alone

    def run(
        self, calls: Sequence[Callable[..., Any]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Trees of tensors [slots, ...] in and out; idle slots' outputs are NaN (0 where whole
        numbers). A call that raises makes its slot idle; if none is left, the last error is raised.

        Only inside `streams.owned()`.
        """
        rows = own_rows(args, kwargs, self.state.slots)
        outputs: dict[int, Any] = {}
        for slot, (call, row) in enumerate(zip(calls, rows, strict=True)):
            if self.state.active[slot]:
                self._call(slot, call, row, outputs)
        if not outputs:
            raise nobody_left(self.state.failures)
        if len(outputs) == self.state.slots:
            return stack_slots(list(outputs.values()))
        blank = blank_like(next(iter(outputs.values())))
        return stack_slots([outputs.get(slot, blank) for slot in range(self.state.slots)])

    def _call(self, slot: int, call: Callable[..., Any], row: Any, outputs: dict[int, Any]) -> None:
        args, kwargs = row
        with self.streams.lent(slot):
            try:
                outputs[slot] = call(*args, **kwargs)
            except Exception as error:  # the user's code: it may raise anything
                if not self._fail_alone:
                    raise
                self.state.fail(slot, error)


def nobody_left(failures: Mapping[int, Exception]) -> FusionError:
    """Why no slot could be run."""
    for slot, cause in failures.items():
        error = FusionError(f"the model in slot {slot} raised {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return error
    return FusionError("all slots are idle: replace one with a trial's model first")


class SeparateModules(nn.Module):
    """The modules at one path of all slot models, which are not its children: they stay theirs."""

    def __init__(self, path: str, calls: SlotCalls, reason: str) -> None:
        super().__init__()
        self.path, self.calls, self.reason = path, calls, reason

    @property
    def modules_of_slots(self) -> list[nn.Module]:
        return [model.get_submodule(self.path) for model in self.calls.state.slot_models]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.calls.run(self.modules_of_slots, args, kwargs)


class SeparateFunction(nn.Module):
    """A function of tensors without a fused rule, called with each slot's own."""

    def __init__(self, function: Callable[..., Any], calls: SlotCalls) -> None:
        super().__init__()
        self.function, self.calls = function, calls

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        refuse_masks(self.function, args)
        output = self.calls.run([self.function] * self.calls.state.slots, args, kwargs)
        if not all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(output)):
            raise Refused(f"'{name_of(self.function)}' reads values of tensors")
        return output


def leaf_modules(module: nn.Module) -> list[nn.Module]:
    """The modules inside that have none inside."""
    return [inner for inner in module.modules() if not any(inner.children())]


def separate_function(node: fx.Node) -> Callable[..., Any]:
    """The call of a traced node for one slot's tensors; `Refused` if it writes into its arguments
    or returns what depends on their values."""
    name = name_of(node.target)
    if name in READ_VALUES:
        raise Refused(f"{describe(node)} reads values of tensors")
    is_in_place = name.endswith("_") and not name.endswith("__")
    if is_in_place or "out" in node.kwargs or node.kwargs.get("inplace") or name == "setitem":
        raise Refused(f"{describe(node)} writes into its arguments and has no fused rule")
    if node.op == "call_method":
        return Method(str(node.target))
    assert callable(node.target)
    return node.target


class Method:
    """Calls a method by its name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, self.__name__)(*args, **kwargs)


def refuse_masks(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """`Refused` for an index by truth values: what it returns has a shape that depends on them."""
    if function is operator.getitem:
        for x in pytree.tree_leaves(args[1:]):
            if isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8):
                raise Refused("indexing by a mask returns a shape that depends on values")


def name_of(target: Any) -> str:
    return str(getattr(target, "__name__", target))
