"""The size of each axis of a surrogate's parameters beside the target's, and which of them grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """`is_wide`: it grows with the width, though a surrogate of the target's width has its size."""

    target: int
    size: int
    is_wide: bool

    @property
    def ratio(self) -> float:
        """m: the surrogate's size over the target's."""
        return self.size / self.target


Axes = tuple[Axis, ...]  # of one parameter or buffer
Shapes = Mapping[str, Sequence[int]]  # by name


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of all parameters and buffers, each under its first name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in named}


def may_be_weight(buffer: Tensor) -> bool:
    """Counts, indices and masks are none."""
    return buffer.is_floating_point() or buffer.is_complex()


def keeps_of_width(target: nn.Module, narrow: nn.Module) -> bool:
    """Says whether a module, none of torch's own, keeps a buffer that grows with the width."""
    return any(
        may_be_weight(buffer) and buffer.shape != getattr(narrow.get_submodule(path), name).shape
        for path, module in target.named_modules()
        if not type(module).__module__.startswith("torch.")
        for name, buffer in module.named_buffers(recurse=False)
    )


def compare(target: Shapes, narrow: Shapes, other: Shapes) -> dict[str, Axes]:
    """The axes of a surrogate, from its shapes, those of its target and of one more width than
    these: an axis that is not the same in all three is wide. ShrinkError if they are no models of
    one kind.
    """
    for shapes in (narrow, other):
        if different := sorted(target.keys() ^ shapes.keys()):
            raise ShrinkError(
                f"'{different[0]}' is a parameter or buffer of the model at one width only: "
                "a surrogate has all of its target's layers; let the width change sizes alone"
            )
    return {
        name: _compare_one(name, shape, narrow[name], other[name]) for name, shape in target.items()
    }


def _compare_one(
    name: str, target: Sequence[int], narrow: Sequence[int], other: Sequence[int]
) -> Axes:
    if not len(target) == len(narrow) == len(other):
        raise ShrinkError(
            f"'{name}' has another number of axes at another width ({list(target)} and "
            f"{list(narrow)}); let the width change sizes alone"
        )
    return tuple(
        Axis(target=t, size=n, is_wide=not t == n == o)
        for t, n, o in zip(target, narrow, other, strict=True)
    )
