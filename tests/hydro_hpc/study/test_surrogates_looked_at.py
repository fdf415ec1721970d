"""What one call of a study's surrogate and of its target shows: refused, or said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc import Study
from hydro_hpc.errors import StudyError
from hydro_hpc.study.space import uniform
from hydro_hpc.surrogate import Narrow
from tests.hydro_hpc.study.surrogates import SPACE, TARGET, WIDTH, Wide

MakeStudy = Callable[..., Study]


class Pairs(Wide):
    """The product of two activations over the width."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers[:2](x)
        return self.layers[2](h) + (h * self.layers[0](x)).sum(-1, keepdim=True)  # type: ignore[no-any-return]


class Beside(Wide):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:2]:
            x = layer(x)
        weight, bias = [*self.layers.parameters()][-2:]
        return nn.functional.linear(x, weight, bias)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [(Pairs, "multiplies two activations over 32 values"), (Beside, "'layers.2' leads out of")],
)
def test_what_a_batch_shows_is_refused(
    narrow_study: MakeStudy, model: type[nn.Module], sentence: str
) -> None:
    with pytest.raises(StudyError, match=sentence):
        narrow_study(model=model).build_model({"lr": 0.1}, 0)


class Reservoir(Wide):
    """A weight in a buffer."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.register_buffer("w", torch.full((width, width), 0.1).tril())

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers[:2](x)
        return self.layers[2](h @ self.w)  # type: ignore[no-any-return]


def test_a_weight_in_a_buffer_is_seen(narrow_study: MakeStudy) -> None:
    made = narrow_study(model=Reservoir)
    found = made.build_surrogate({"lr": 0.1}, 0).module.get_buffer("w")
    assert torch.allclose(found, found.sign() * 0.1 * (TARGET / WIDTH) ** 0.5, rtol=0.05)
    assert "'w' is a buffer that activations are multiplied with" in made.narrowed({"lr": 0.1})[1]


class FailingReservoir(Reservoir):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(f"not on {x.device}")


class Failing(Wide):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(f"not on {x.device}")


@pytest.mark.parametrize("model", [Failing, FailingReservoir])
def test_a_model_that_cannot_be_called_here_is_said_not_to_be_looked_at(
    narrow_study: MakeStudy, model: type[nn.Module]
) -> None:
    made = narrow_study(model=model)
    made.build_model({"lr": 0.1}, 0)
    assert made.narrowed({"lr": 0.1})[1].startswith("factors on attention's logits")
    assert "not on cpu" in made.narrowed({"lr": 0.1})[1]


def test_a_shapes_surrogate_and_target_are_called_once(narrow_study: MakeStudy) -> None:
    called: list[int] = []

    class Counted(Wide):
        def forward(self, x: Tensor) -> Tensor:
            called.append(self.layers[0].out_features)  # type: ignore[arg-type]
            return super().forward(x)

    made = narrow_study(model=Counted, space=SPACE | {"slope": uniform(0.0, 0.3)})
    for seed in range(3):
        made.build_model({"lr": 0.1, "slope": seed / 10}, seed)
    made.narrowed({"lr": 0.1, "slope": 0.1})
    assert called == [TARGET, WIDTH]


class Rooted(Wide):
    """Multiplies by the root of its width."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers[0](x)
        return self.layers[1:](h * h.shape[-1] ** 0.5)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "surrogate", [Narrow(width=WIDTH, unproven=True), Narrow(by=4, unproven=True)]
)
def test_a_run_warns_of_factors_of_the_width(
    narrow_study: MakeStudy, surrogate: Narrow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow_study(model=Rooted, surrogate=surrogate, trials=1).run(tmp_path)
    _, warned, *_ = capsys.readouterr().out.splitlines()
    said = "study small: the model multiplies what 'layers.0' gives by 5.657 at the target's"
    assert warned.startswith(said)
