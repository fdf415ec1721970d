"""Tensors that are to train, wherever they are made: a bundle may be bound in an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def to_train() -> Iterator[None]:
    """What is made within has no history and can be trained, under `inference_mode` too."""
    with torch.inference_mode(False), torch.no_grad():
        yield
