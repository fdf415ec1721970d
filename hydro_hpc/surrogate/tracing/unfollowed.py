"""Models that no call in symbols is made of, each with what to do about it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.layouts import places_of
from hydro_hpc.surrogate.refusals import refuse_parametrized


def refuse_unfollowed(model: nn.Module) -> None:
    """ShrinkError if a module has no code or no sizes to follow, or no rule."""
    for path, module in model.named_modules():
        _refuse_compiled(path, module)
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ShrinkError(
                f"'{name}' is of a lazy layer and has no size yet: call the model once on a batch "
                "before it is shrunk"
            )
    for places in places_of(model).values():
        for place in places:
            refuse_parametrized(place)
    for path, module in model.named_modules():
        _refuse_computed(path, module)


def _refuse_compiled(path: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        thing = f"'{path}'" if path else "the model"
        raise ShrinkError(
            f"{thing} was compiled by torch.jit, and its widths cannot be followed: shrink the "
            "model that it was made from"
        )


def _refuse_computed(path: str, module: nn.Module) -> None:
    """What a module computed and keeps cannot be copied."""
    for name, kept in vars(module).items():
        if isinstance(kept, Tensor) and kept.grad_fn is not None:
            raise ShrinkError(
                f"'{path}' keeps '{name}', a tensor that it computed (as by the old "
                "torch.nn.utils.weight_norm): use torch.nn.utils.parametrizations"
            )
