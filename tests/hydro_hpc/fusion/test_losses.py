"""One loss per slot, whose sum gives each slot the gradient of its own loss."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import losses

SLOTS, BATCH, CLASSES = 3, 5, 4


def ignoring_some(targets_FB: Tensor) -> Tensor:
    targets_FB[0, :2] = -100
    targets_FB[2, 4] = -100
    return targets_FB


def outputs_and_targets() -> tuple[Tensor, Tensor]:
    outputs = torch.randn(SLOTS, BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    return outputs, torch.randint(0, CLASSES, (SLOTS, BATCH))


class Weighted(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return 3 * super().forward(input, target)


LOSSES = [
    F.cross_entropy,
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    Weighted(),
    partial(F.cross_entropy, label_smoothing=0.2),
    lambda outputs, targets: F.mse_loss(outputs, F.one_hot(targets, CLASSES).double()),
]


@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_equals_the_loss_of_each_model(number: int) -> None:
    loss = LOSSES[number]
    outputs, targets = outputs_and_targets()
    found = losses(loss, outputs, targets)
    found.sum().backward()
    assert found.shape == (SLOTS,)
    for slot in range(SLOTS):
        alone = outputs[slot].detach().requires_grad_()
        expected = loss(alone, targets[slot])
        expected.backward()
        torch.testing.assert_close(found[slot], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(outputs.grad[slot], alone.grad, rtol=1e-12, atol=1e-15)


def test_ignored_targets_do_not_count() -> None:
    outputs, targets = outputs_and_targets()
    found = losses(F.cross_entropy, outputs, ignoring_some(targets))
    for slot in range(SLOTS):
        expected = F.cross_entropy(outputs[slot], targets[slot])
        torch.testing.assert_close(found[slot], expected, rtol=1e-12, atol=0)


def test_pictures_have_a_class_per_pixel() -> None:
    outputs = torch.randn(SLOTS, BATCH, CLASSES, 2, 6, dtype=torch.float64)
    targets = torch.randint(0, CLASSES, (SLOTS, BATCH, 2, 6))
    found = losses(F.cross_entropy, outputs, targets)
    for slot in range(SLOTS):
        torch.testing.assert_close(found[slot], F.cross_entropy(outputs[slot], targets[slot]))


def test_each_slot_may_have_its_own_loss() -> None:
    outputs, targets = outputs_and_targets()
    own = [partial(F.cross_entropy, label_smoothing=s) for s in (0.0, 0.1, 0.3)]
    found = losses(own, outputs, targets)
    for slot, loss in enumerate(own):
        torch.testing.assert_close(found[slot], loss(outputs[slot], targets[slot]))
    with pytest.raises(FusionError, match="2 loss functions were given for 3 slots"):
        losses(own[:2], outputs, targets)


def test_a_nan_stays_in_its_slot() -> None:
    outputs, targets = outputs_and_targets()
    with torch.no_grad():
        outputs[1, 0, 0] = torch.nan
    losses(F.cross_entropy, outputs, targets).sum().backward()
    assert outputs.grad[1, 0].isnan().all()
    assert outputs.grad[[0, 2]].isfinite().all()


def test_a_target_that_is_no_class_fails_its_slot_alone() -> None:
    outputs, targets = outputs_and_targets()
    targets[1, 2] = CLASSES + 3
    failures: dict[int, Exception] = {}
    found = losses(F.cross_entropy, outputs, targets, failed=failures.__setitem__)
    found.sum().backward()
    assert list(failures) == [1]
    assert isinstance(failures[1], IndexError)
    assert found[1] == 0
    assert not outputs.grad[1].any()
    for slot in (0, 2):
        torch.testing.assert_close(found[slot], F.cross_entropy(outputs[slot], targets[slot]))
    with pytest.raises(IndexError, match="out of bounds"):
        losses(F.cross_entropy, outputs, targets)


def test_shared_targets_must_be_spread_out() -> None:
    outputs, targets = outputs_and_targets()
    with pytest.raises(FusionError, match=r"leading dimensions \[3, 5\].*targets\.expand"):
        losses(F.cross_entropy, outputs, targets[0])
    spread = targets[0].expand(SLOTS, BATCH)
    torch.testing.assert_close(
        losses(F.cross_entropy, outputs, spread)[2], F.cross_entropy(outputs[2], targets[0])
    )


def test_a_loss_must_be_one_number() -> None:
    outputs, targets = outputs_and_targets()
    with pytest.raises(FusionError, match=r"returned \[5\], not one number per model"):
        losses(partial(F.cross_entropy, reduction="none"), outputs, targets)


def test_cross_entropy_pauses_in_its_middle_forward_and_backward() -> None:
    outputs, targets = torch.randn(2, 5, 3, requires_grad=True), torch.randint(0, 3, (2, 5))
    places = []
    values = losses(
        nn.CrossEntropyLoss(), outputs, targets, between=lambda *_: places.append("pause")
    )
    assert places == ["pause"]
    expected = [nn.functional.cross_entropy(outputs[slot], targets[slot]) for slot in range(2)]
    torch.testing.assert_close(values, torch.stack(expected))
    values.sum().backward()
    assert places == ["pause", "pause"]
