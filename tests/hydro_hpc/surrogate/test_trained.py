"""Models that were trained are refused, and none that was drawn, by whatever law."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.trained import BOUND, beyond_drawn
from tests.hydro_hpc.surrogate.against_target import VECTOR

X = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
Y = (X[:, :8].square().sum(1) > X[:, 8:].square().sum(1)).long()


def perceptron(width: int = 64) -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
    )


def trained(model: nn.Module, steps: int, optimizer: type[torch.optim.Optimizer]) -> nn.Module:
    lr = 0.2 if optimizer is torch.optim.SGD else 3e-3
    training = optimizer(model.parameters(), lr=lr)  # type: ignore[call-arg]
    for _ in range(steps):
        training.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        training.step()
    return model


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_model_that_was_trained_is_refused(optimizer: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = perceptron()
    assert shrink(model, by=4, example=X[:4]).rules
    with pytest.raises(ShrinkError, match=r"'[02]\.weight' has been trained, as one direction"):
        shrink(trained(model, 300, optimizer), by=4, example=X[:4])


def test_a_function_that_seeds_itself_and_gives_trained_values_is_refused() -> None:
    def pretrained(width: int = 64) -> nn.Module:
        torch.manual_seed(0)
        return trained(perceptron(width), 60, torch.optim.Adam)

    with pytest.raises(ShrinkError, match=r"'[02]\.weight' has been trained, as one direction"):
        shrink(pretrained, width=16)


def by_parts(weight: Tensor) -> Tensor:
    """As of gates, each of its own spread."""
    for part, std in zip(weight.chunk(4), (0.01, 0.1, 1.0, 0.3), strict=False):
        nn.init.normal_(part, std=std)
    return weight


def repeated(weight: Tensor) -> Tensor:
    """As of a subpixel convolution, by four."""
    rows = weight[: -(-len(weight) // 4)]
    nn.init.kaiming_normal_(rows)
    return weight.copy_(rows.repeat_interleave(4, 0)[: len(weight)])


LAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch's": lambda w: nn.init.kaiming_uniform_(w, a=5**0.5),
    "xavier": nn.init.xavier_normal_,
    "kaiming": nn.init.kaiming_normal_,
    "normal": lambda w: nn.init.normal_(w, std=0.02),
    "truncated": lambda w: nn.init.trunc_normal_(w, std=0.02),
    "with a mean": lambda w: nn.init.normal_(w, 1.0, 0.02),
    "positive": nn.init.uniform_,
    "orthogonal": nn.init.orthogonal_,
    "sparse": lambda w: nn.init.sparse_(w, 0.9),
    "identity": nn.init.eye_,
    "near the identity": lambda w: nn.init.eye_(w).add_(torch.randn_like(w) * 0.01),
    "zero": nn.init.zeros_,
    "constant": lambda w: nn.init.constant_(w, 0.3),
    "by parts": by_parts,
    "repeated": repeated,
}


@pytest.mark.parametrize("law", LAWS)
@torch.no_grad()
def test_what_is_drawn_is_not_taken_to_be_trained(law: str) -> None:
    for shape in [(8, 8), (64, 9), (10, 64), (64, 64), (256, 64)]:
        for seed in range(20):
            torch.manual_seed(seed)
            assert beyond_drawn(LAWS[law](torch.empty(shape))) < BOUND, (shape, seed)


def test_gains_of_norms_that_are_drawn_as_of_a_dcgan_are_not_refused() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2))
    nn.init.normal_(model[1].weight, 1.0, 0.02)  # type: ignore[arg-type]
    assert shrink(model, by=4, example=X[:4]).rules
    nn.init.normal_(model[1].bias, 0.0, 0.02)  # type: ignore[arg-type]
    with pytest.raises(ShrinkError, match=r"'1' has been trained, and the rules"):
        shrink(model, by=4, example=X[:4])


class Decaying(nn.Module):
    """Units that forget at different rates, which are computed."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(16, width), nn.Linear(width, 2)
        self.decay = nn.Parameter(torch.linspace(-5, 3, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.into(x) * torch.exp(-torch.exp(self.decay)))  # type: ignore[no-any-return]


def test_a_vector_that_is_computed_is_no_sign_of_training() -> None:
    surrogate = shrink(Decaying, width=16)
    assert surrogate.rules["decay"] == VECTOR
    torch.testing.assert_close(
        surrogate.module.get_parameter("decay").detach(), torch.linspace(-5, 3, 16)
    )
