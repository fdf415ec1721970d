"""Whether the rows of an activation have been divided by their norms, by its values."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

ROUNDING: Final = 0.02  # of norms, in half precision


def has_unit_rows(tensor: Tensor) -> bool:
    """Along its last axis; its values are looked at."""
    norms = _norms(tensor)
    return norms is not None and _are_alike(norms, torch.ones_like(norms))


def has_equal_rows(tensor: Tensor) -> bool:
    """The same of any norm, as of what was divided by its own."""
    norms = _norms(tensor)
    return norms is not None and _are_alike(norms / norms.mean(), torch.ones_like(norms))


def _norms(tensor: Tensor) -> Tensor | None:
    if tensor.ndim < 2 or tensor.shape[-1] < 2:
        return None
    norms: Tensor = torch.linalg.vector_norm(tensor.detach().float(), dim=-1)
    return norms


def _are_alike(norms: Tensor, others: Tensor) -> bool:
    return bool(torch.isclose(norms, others, atol=ROUNDING).all())
