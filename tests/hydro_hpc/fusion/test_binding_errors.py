"""What cannot be one bundle is refused in one sentence that names the trial and the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import bind


def net(width: int = 4, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), activation(), nn.Linear(width, 2))


def frozen() -> nn.Module:
    return net().requires_grad_(False)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def untied() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))


def compiled(make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), make(nn.Linear(3, 2)))


def traced(module: nn.Module) -> nn.Module:
    return torch.jit.trace(module, torch.zeros(1, 3))


SAME = net()

REFUSED: list[tuple[Sequence[Any], str]] = [
    ([], "no models were given"),
    (
        [net(), net(), net(5)],
        r"trial 2 cannot join the bundle: parameter '0.weight' is \[5, 3\] there and \[4, 3\] in "
        "trial 0",
    ),
    ([net(), net(4, nn.Tanh)], "trial 1 cannot .*: class of '1' is Tanh there and ReLU in trial 0"),
    ([net(), net().double()], "trial 1 .*: dtype of parameter '0.weight' is torch.float64 there"),
    ([net(), frozen()], "trial 1 .*: requires_grad of parameter '0.weight' is False there and"),
    ([net(), nn.Linear(3, 4)], "trial 1 .*: class is Linear there and Sequential in trial 0"),
    ([tied(), untied()], "trial 1 .*: tie of parameter '2.weight' is 2.weight there and 0.weight"),
    ([net(), net().to("meta")], "trial 1 .*: device of parameter '0.weight' is meta there"),
    ([frozen(), frozen()], "trial 0's model has no parameters to train"),
    ([nn.ReLU()], "trial 0's model has no parameters to train"),
    ([SAME, SAME], "one model object was given twice"),
    ([net(), "model"], "trial 1's model is a str, not a Module"),
    ([nn.Sequential(nn.LazyLinear(2))], "trial 0's model has lazy parameters: call it once before"),
]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(("models", "sentence"), REFUSED)
def test_models_that_do_not_fit_are_refused(models: Sequence[Any], sentence: str) -> None:
    with pytest.raises(FusionError, match=sentence) as error:
        bind(models)
    assert "\n" not in str(error.value)


def test_every_trial_needs_a_seed() -> None:
    with pytest.raises(FusionError, match="1 seeds were given for 2 models"):
        bind([net(), net()], seeds=[1])


def test_a_model_that_cannot_be_copied_is_named() -> None:
    model = net()
    model.file = open("/dev/null")  # noqa: SIM115
    try:
        with pytest.raises(FusionError, match="model of trial 1 cannot be copied: TypeError"):
            bind([net(), model])
    finally:
        model.file.close()


def test_a_result_kept_from_a_forward_does_not_stand_in_the_way() -> None:
    model = net()
    model.last = {"hidden": [model(torch.zeros(1, 3))]}
    copied = bind([model], example=torch.zeros(1, 3)).unbind(0)
    assert torch.equal(copied.last["hidden"][0], model.last["hidden"][0])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("make", [torch.jit.script, traced])
def test_a_part_that_torch_jit_compiled_is_refused(make: Callable[..., nn.Module]) -> None:
    sentence = "'1' compiled by torch.jit.script or trace.*: bind the plain module, and compile"
    with pytest.raises(FusionError, match=f"trial 1's model has {sentence}"):
        bind([compiled(lambda module: module), compiled(make)])
    bundle = bind([compiled(lambda module: module)])
    with pytest.raises(FusionError, match=f"the new trial's model has {sentence}"):
        bundle.replace(0, compiled(make), seed=1)
    with pytest.raises(FusionError, match="trial 0's model has all compiled"):
        bind([make(nn.Linear(3, 2))])
