"""Several backward calls before one step: gradients add up per slot, as in torch."""

from __future__ import annotations

import pytest
import torch

from hydro_hpc import optim
from hydro_hpc.fusion import ExecutorKind
from hydro_hpc.optim import clip_grad_norm_
from tests.hydro_hpc.optim.torch_oracle import (
    SLOTS,
    assert_equal,
    backward_both,
    bundle_of,
    models,
    torch_optimizers,
)

RATES = [0.1, 0.01, 0.2]
CLOSE = {"rtol": 1e-10, "atol": 1e-13}


@pytest.mark.parametrize("num_backward", [1, 3, 4])
@pytest.mark.parametrize("kind", list(ExecutorKind))
def test_gradients_of_several_backward_calls_add_up(kind: ExecutorKind, num_backward: int) -> None:
    nets = models()
    bundle = bundle_of(nets, kind)
    ours, theirs = optim.AdamW(bundle, lr=RATES), torch_optimizers("AdamW", {"lr": RATES}, nets)
    for step in range(5):
        for part in range(num_backward):
            backward_both(bundle, nets, 10 * step + part)
        clip_grad_norm_(bundle, 0.1)
        ours.step()
        ours.zero_grad()
        for net, optimizer in zip(nets, theirs, strict=True):
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    assert bundle.streams.steps == [5] * SLOTS
    assert_equal(bundle, nets, **CLOSE)


def test_gradients_are_forgotten_only_by_zero_grad() -> None:
    """What the test above would see if a call of the bundle forgot the last one's."""
    nets = models()
    bundle = bundle_of(nets, ExecutorKind.GROUPED)
    ours, theirs = optim.SGD(bundle, lr=RATES), torch_optimizers("SGD", {"lr": RATES}, nets)
    backward_both(bundle, nets, 0)
    bundle.zero_grad()
    backward_both(bundle, nets, 1)
    ours.step()
    for optimizer in theirs:
        optimizer.step()
    with pytest.raises(AssertionError, match="not close"):
        assert_equal(bundle, nets, **CLOSE)
