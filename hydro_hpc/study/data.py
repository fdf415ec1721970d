"""A study's data: four tensors, checked once, and the order in which a trial sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hydro_hpc.errors import StudyError

_NAMES = ("train_x", "train_y", "test_x", "test_y")


@dataclass(frozen=True, slots=True)
class Data:
    """Rows first: train_x [rows, ...] with train_y [rows, ...], and the same for the test set."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def to(self, device: torch.device | str) -> Data:
        return Data(*(getattr(self, name).to(device) for name in _NAMES))


def load_data(source: Callable[[], Any], *, batch_size: int) -> Data:
    """Calls the user's function and checks what it returns; raises StudyError."""
    name = getattr(source, "__name__", "data")
    try:
        found = source()
    except Exception as error:
        raise StudyError(f"{name}() raised {type(error).__name__}: {error}") from error
    data = found if isinstance(found, Data) else Data(*_tensors(name, found))
    _check_rows(name, data, batch_size)
    return data


def batch_indices(num_rows: int, batch_size: int, *, seed: int, epoch: int) -> Tensor:
    """Returns row numbers, LongTensor [steps, batch]: a function of its arguments only.

    Every epoch is a new permutation. The last rows that do not fill a batch are left out of that
    epoch, so that all batches are alike and fused trials stay in step.
    """
    steps = num_rows // batch_size
    generator = torch.Generator().manual_seed(_order_seed(seed, epoch))
    order = torch.randperm(num_rows, generator=generator)
    return order[: steps * batch_size].view(steps, batch_size)


def _order_seed(seed: int, epoch: int) -> int:
    """Mixes both numbers, and differs from the seed of the weights."""
    digest = hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & 0x7FFFFFFFFFFFFFFF


def _tensors(name: str, found: Any) -> list[Tensor]:
    if not isinstance(found, tuple | list) or len(found) != len(_NAMES):
        what = f"{len(found)} values" if isinstance(found, tuple | list) else type(found).__name__
        raise StudyError(f"{name}() returned {what}; return ({', '.join(_NAMES)})")
    tensors = []
    for part, value in zip(_NAMES, found, strict=True):
        try:
            tensors.append(torch.as_tensor(value))
        except (TypeError, ValueError, RuntimeError):
            raise StudyError(
                f"{name}(): {part} is of type {type(value).__name__}; return tensors or arrays"
            ) from None
    return tensors


def _check_rows(name: str, data: Data, batch_size: int) -> None:
    for part in _NAMES:
        if getattr(data, part).dim() == 0 or len(getattr(data, part)) == 0:
            raise StudyError(f"{name}(): {part} is empty; it needs at least one row")
    for x, y in (("train_x", "train_y"), ("test_x", "test_y")):
        rows_x, rows_y = len(getattr(data, x)), len(getattr(data, y))
        if rows_x != rows_y:
            raise StudyError(f"{name}(): {x} has {rows_x} rows, {y} has {rows_y}; they must match")
    if len(data.train_x) < batch_size:
        raise StudyError(
            f"{name}(): train_x has {len(data.train_x)} rows, fewer than a batch of {batch_size}; "
            "lower batch_size"
        )
    if data.train_x.shape[1:] != data.test_x.shape[1:]:
        raise StudyError(
            f"{name}(): rows of train_x have shape {tuple(data.train_x.shape[1:])}, "
            f"those of test_x {tuple(data.test_x.shape[1:])}; they must match"
        )
