"""Models that were trained already, told by their values: the rules are about initialisation.

Values that are drawn each by itself, by whatever law and of whatever spread in each row and column,
have a largest singular value below the sum of the largest norms of a row and of a column (Bandeira
and van Handel, arXiv 1408.6185); so have orthogonal and identity matrices. Training adds directions
that all of its steps share, and goes beyond. What is looked up, and rows that repeat, as of a
subpixel convolution, tell nothing.

Measured over 300 draws of 12 laws and 16 shapes: 0.95 of that bound at most. After training, the
largest of a model: 1.1 and more (MLP and CNN on digits with SGD, from 300 steps), 1.2 to 1.8 (Adam
from 50 steps, GPT from 100).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import Axes
from hydro_hpc.surrogate.initial import sample_of
from hydro_hpc.surrogate.layouts import TABLES, places_of

BOUND: Final = 1.05
FEWEST: Final = 8  # rows and columns of a weight that is judged
STEPS: Final = (
    20  # of power iteration, which leaves the largest singular value too small, if at all
)
NORMS: Final = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def refuse_trained(model: nn.Module, axes: Mapping[str, Axes]) -> None:
    """ShrinkError if a norm's gains, or a weight along wide axes, are not as they are drawn."""
    for path, module in model.named_modules():
        if isinstance(module, NORMS) and _is_trained_norm(module):
            raise ShrinkError(
                f"'{path}' has been trained, and the rules are about initialisation: "
                "shrink a model as it is before its first step"
            )
    parameters = dict(model.named_parameters())
    for name, places in places_of(model).items():
        is_table = any(isinstance(place.module, TABLES) for place in places)
        is_weight = places[0].out_in is not None and not is_table
        is_wide = any(axis.is_wide for axis in axes[name])
        if is_weight and is_wide and beyond_drawn(parameters[name]) > BOUND:
            raise ShrinkError(
                f"'{name}' has been trained, as one direction of it is larger than of any weight "
                "that is drawn, and the rules are about initialisation: shrink a model as it is "
                "before its first step"
            )


def _is_trained_norm(norm: nn.Module) -> bool:
    """Gains may be drawn, as those of a DCGAN are; then shifts are not."""
    drawn = [
        parameter is not None and not sample_of(parameter).is_constant
        for name in ("weight", "bias")
        if (parameter := norm._parameters.get(name)) is not None
    ]
    return bool(drawn) and all(drawn)


@torch.no_grad()
def beyond_drawn(weight: Tensor) -> float:
    """The largest singular value over the most that drawn values have; 0 of what is not judged."""
    if not weight.is_floating_point() or weight.ndim < 2:
        return 0.0
    values = weight.detach().float().flatten(1)
    found = _over_bound(values)
    if found > BOUND:
        found = _over_bound(values.unique(dim=0).unique(dim=1))
    return found


def _over_bound(values: Tensor) -> float:
    if min(values.shape) < FEWEST:
        return 0.0
    values = values - values.mean()
    rows, columns = values.norm(dim=1), values.norm(dim=0)
    if not rows.max() or not rows.isfinite().all():
        return 0.0
    direction = values[rows.argmax()]
    for _ in range(STEPS):
        direction = values.T @ (values @ (direction / direction.norm()))
    return float(direction.norm().sqrt() / (rows.max() + columns.max()))
