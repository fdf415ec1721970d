"""A step of 16-bit parameters is the exact one, rounded once: as near as torch's or nearer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, bind
from hydro_hpc.optim import SlotGradScaler, adam
from tests.hydro_hpc.optim.torch_oracle import SLOTS

LR = [0.3, 0.011, 0.00123]
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": LR, "weight_decay": [0.013, 0.0, 0.7]}),
    ("SGD", {"lr": LR, "momentum": [0.9, 0.3, 0.77], "dampening": [0.0, 0.1, 0.3]}),
    ("SGD", {"lr": LR, "momentum": [0.9, 0.0, 0.77], "nesterov": [True, False, True]}),
    ("Adam", {"lr": LR, "betas": [(0.9, 0.999), (0.8, 0.97), (0.5, 0.9)], "eps": 1e-3}),
    ("AdamW", {"lr": LR, "weight_decay": [0.013, 0.1, 0.7], "amsgrad": [True, False, True]}),
    ("RMSprop", {"lr": LR, "alpha": [0.99, 0.9, 0.77], "momentum": [0.9, 0.0, 0.3]}),
    ("RMSprop", {"lr": LR, "centered": True, "eps": 1e-2}),
    ("Adagrad", {"lr": LR, "lr_decay": [0.1, 0.0, 0.33], "eps": 1e-3}),
]
CASES = [
    (name, settings, has_kernel)
    for name, settings in SETTINGS
    for has_kernel in ([True, False] if "Adam" in name else [True])
]
HALVES = [torch.bfloat16, torch.float16]


def bundle_of(dtype: torch.dtype) -> Bundle:
    torch.manual_seed(0)
    nets = [nn.Linear(40, 5).to(dtype) for _ in range(SLOTS)]
    x = torch.rand(3, 40).to(dtype)
    bundle = bind(nets, x, executor=ExecutorKind.GROUPED, choices=[])
    bundle.shared(x)  # its executor's leaves are in use now
    return bundle


def numbers(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


def torch_step(
    name: str, ours: optim.SlotOptimizer, slot: int, gradients: list[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What torch makes of the slot's present parameters and state: these after one step."""
    model = ours.bundle.unbind(slot).to(dtype)
    optimizer = getattr(torch.optim, name)(model.parameters())
    optimizer.load_state_dict(ours.slot_state(slot))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.to(dtype, copy=True)
    optimizer.step()
    return numbers(model.parameters()), state_numbers(optimizer.state_dict())


def state_numbers(state: Any) -> Tensor:
    own = [state["state"].get(n, {}) for n in range(2)]
    found = [x for each in own for key, x in sorted(each.items()) if key != "step"]
    return numbers([torch.zeros(1), *found])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("name", "settings", "has_kernel"), CASES)
def test_a_step_is_rounded_once(
    name: str,
    settings: dict[str, Any],
    has_kernel: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not has_kernel:
        monkeypatch.setattr(adam, "kernel_for", lambda _moments, _name: None)
    bundle = bundle_of(dtype)
    ours = getattr(optim, name)(bundle, **settings)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        with torch.no_grad():
            for block in bundle.state.blocks:
                block.values_FP.mul_(2.0**-6)  # so that the update shows
        leaves = dict(bundle.named_parameters())
        for leaf in leaves.values():
            leaf.grad = torch.randn(leaf.shape, generator=generator).to(dtype)
        gradients = [[leaves[n].grad[slot] for n in ("weight", "bias")] for slot in range(SLOTS)]
        exact = [torch_step(name, ours, s, gradients[s], torch.float64) for s in range(SLOTS)]
        theirs = [torch_step(name, ours, s, gradients[s], dtype) for s in range(SLOTS)]
        ours.step()
        for slot in range(SLOTS):
            found = numbers(bundle.unbind(slot).parameters()), state_numbers(ours.slot_state(slot))
            for mine, torchs, right in zip(found, theirs[slot], exact[slot], strict=True):
                rounding = (right.to(dtype) - right).abs()
                error, other = (mine - right).abs(), (torchs - right).abs()
                assert float((error - rounding).max()) <= 1e-6
                assert float(error.sum()) <= 1.001 * float(other.sum())


def test_a_scale_is_taken_out_of_16_bit_gradients_in_full_precision() -> None:
    bundle = bundle_of(torch.bfloat16)
    scaler = SlotGradScaler(optim.SGD(bundle), init_scale=[3.0, 7.0, 1.3])
    leaf = dict(bundle.named_parameters())["weight"]
    leaf.grad = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    scales = torch.tensor([3.0, 7.0, 1.3])[:, None, None]
    expected = (leaf.grad.float() / scales).bfloat16()
    scaler.unscale_()
    assert torch.equal(leaf.grad, expected)
