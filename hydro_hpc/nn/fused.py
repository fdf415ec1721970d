"""What all fused modules are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hydro_hpc.nn.masks import Masks
from hydro_hpc.nn.members import Refused
from hydro_hpc.nn.multiplier import multiply_input


class Fused(nn.Module):
    """Takes and gives tensors [slots, *unfused shape]; all slots share its `settings`, and each has
    its own random `masks` where there are any. Its parts, fused too, have the paths of torch's.

    It calls what is in `entries` at the start of its forward, and `before` at that of its backward.
    Where a module's backward is its own (`has_own_backward`), that calls `between` in its middle
    too. These are places where a step may pause; torch's own hooks would take ten times as long.
    `input_names` are torch's of what forward takes, in order.
    """

    has_own_backward = False
    masks: Masks | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.input_names: tuple[str, ...] = ()
        self.entries: list[Callable[[], None]] = []
        self.before: Callable[..., None] | None = None
        self.between: Callable[[], None] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for enter in self.entries:
            enter()
        if kwargs:
            args, kwargs = self._by_place(args, kwargs)
        is_hooked = self._forward_pre_hooks or self._forward_hooks
        call = super().__call__ if is_hooked else self.forward
        output = call(*args, **kwargs)
        if self.before is not None and not self.has_own_backward:
            last = output if isinstance(output, Tensor) else _last_made(output)
            if last is not None and last.grad_fn is not None:
                last.grad_fn.register_prehook(self.before)
        return output

    def _by_place(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs that are given by torch's names for them; ours say the shapes."""
        left = dict(kwargs)
        given = list(args)
        for name in self.input_names[len(args) :]:
            if name not in left:
                break
            given.append(left.pop(name))
        return tuple(given), left

    def multiply_input(self, factor: float) -> None:
        """As a member's own input is multiplied; the same in every slot."""
        before = self.settings.get("input_multipliers", ())
        self.settings = {**self.settings, "input_multipliers": (*before, factor)}
        multiply_input(self, factor)

    def follow(self, module: nn.Module) -> None:
        """Takes a member's training flags, those of its parts too."""
        for path, part in self.named_modules():
            part.training = module.get_submodule(path).training

    def adopt(self, fresh: Self) -> None:
        """A slot has another module; `fresh` was made from the present ones. `Refused` if it has
        other settings than this."""
        for path, part in self.named_modules():
            if isinstance(part, Fused):
                other = fresh.get_submodule(path)
                assert isinstance(other, Fused)
                part._adopt(other)

    def _adopt(self, fresh: Fused) -> None:
        """The same without the parts."""
        if fresh.settings != self.settings:
            raise Refused(f"settings {fresh.settings} of the new trial are not {self.settings}")
        self.masks = fresh.masks


def _last_made(output: Any) -> Tensor | None:
    """The first tensor of a tree of outputs: modules return what they computed last first."""
    tensors = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
    return tensors[0] if tensors else None
