"""A surrogate's output layer in a bundle: as fast as without its multiplier, and as exact."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import Bundle, ExecutorKind, bind
from hydro_hpc.nn.multiplier import input_multipliers, multiply_input

SLOTS, FACTOR = 3, 4.0
EXACT = {"rtol": 1e-12, "atol": 1e-14}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.GELU())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x))
        return y


class OwnLinear(nn.Linear):
    """Of the user's, whose forward is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias).tanh()


def own_head() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), OwnLinear(8, 3))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 1))


def with_inner_head() -> nn.Module:
    """The multiplied layer is within what fuses as one."""
    model = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True))
    multiply_input(model.get_submodule("0.linear2"), FACTOR)
    return nn.Sequential(nn.Unflatten(1, (1, 6)), model).double()


def models(make: Callable[[], nn.Module], factor: float = FACTOR) -> list[nn.Module]:
    made = [make().double() for _ in range(SLOTS)]
    for model in made:
        multiply_input(list(model.children())[-1], factor)
    return made


def bundle_of(made: list[nn.Module], kind: ExecutorKind) -> Bundle:
    return bind(made, example=torch.rand(5, 6).double(), executor=kind)


def assert_exact(bundle: Bundle, alone: list[nn.Module]) -> None:
    """Outputs and gradients."""
    x = torch.randn(SLOTS, 5, 6, dtype=torch.float64)
    bundle.zero_grad()
    outputs = bundle(x)
    outputs.pow(2).sum().backward()
    gradients = dict(bundle.named_parameters())
    for slot, model in enumerate(alone):
        model.zero_grad()
        y = model(x[slot])
        y.pow(2).sum().backward()
        torch.testing.assert_close(outputs[slot], y, **EXACT)
        for name, parameter in model.named_parameters():
            leaf = gradients[name] if name in gradients else gradients[f"{slot}.{name}"]
            found = leaf.grad
            assert found is not None
            own = found[slot] if name in gradients else found
            torch.testing.assert_close(own, parameter.grad, **EXACT)


@pytest.mark.parametrize("kind", [ExecutorKind.GROUPED, ExecutorKind.VMAP])
@pytest.mark.parametrize("make", [Net, own_head, convolution])
def test_it_is_fused_as_without(make: Callable[[], nn.Module], kind: ExecutorKind) -> None:
    made = models(make)
    alone = copy.deepcopy(made)
    bundle = bundle_of(made, kind)
    assert bundle.report.executor is kind, bundle.report
    assert not bundle.report.per_slot
    assert_exact(bundle, alone)


@pytest.mark.parametrize("kind", [ExecutorKind.GROUPED, ExecutorKind.VMAP])
def test_the_next_trial_of_a_slot_is_multiplied_too(kind: ExecutorKind) -> None:
    made = models(Net)
    bundle = bundle_of(made, kind)
    [newcomer, *_] = models(Net)
    alone = [copy.deepcopy(each) for each in (made[0], newcomer, made[2])]
    bundle.replace(1, newcomer, seed=3)
    assert bundle.report.executor is kind, bundle.report
    assert_exact(bundle, alone)
    [stranger, *_] = models(Net, factor=2.0)
    with pytest.raises(FusionError, match=r"input multiplier of 'head' is \(2\.0,\) there"):
        bundle.replace(1, stranger, seed=3)


def test_trials_of_other_factors_are_of_another_bundle() -> None:
    made = [models(Net)[0], models(Net, factor=2.0)[0]]
    with pytest.raises(FusionError, match=r"input multiplier of 'head' is \(2\.0,\) there"):
        bind(made, example=torch.rand(5, 6).double())


def test_one_inside_of_what_fuses_as_one_is_not_lost() -> None:
    made = [with_inner_head() for _ in range(SLOTS)]
    alone = copy.deepcopy(made)
    bundle = bundle_of(made, ExecutorKind.GROUPED)
    assert "its 'linear2' is multiplied" in "".join(bundle.report.per_slot.values())
    assert_exact(bundle, alone)


def test_what_comes_out_is_multiplied() -> None:
    made = models(Net)
    alone = copy.deepcopy(made)
    out = bundle_of(made, ExecutorKind.GROUPED).unbind(1)
    assert type(out) is Net
    assert input_multipliers(out.head) == (FACTOR,)
    x = torch.rand(5, 6).double()
    assert torch.equal(out(x), alone[1](x))


def test_a_multiplied_model_stays_the_users() -> None:
    plain, multiplied = Net(), Net()
    multiply_input(multiplied.head, FACTOR)
    assert multiplied.state_dict().keys() == plain.state_dict().keys()
    assert type(multiplied.head) is nn.Linear
    assert multiplied.head.weight.shape == (3, 8)
    untouched = copy.deepcopy(plain)
    multiply_input(plain.head, 1.0)
    x = torch.rand(5, 6)
    assert torch.equal(plain(x), untouched(x))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_multiplied(again: Callable[[nn.Module], nn.Module]) -> None:
    model = Net()
    multiply_input(model.head, FACTOR)
    x = torch.rand(5, 6)
    assert torch.equal(again(model)(x), model(x))
    expected = nn.functional.linear(model.body(x) * FACTOR, model.head.weight, model.head.bias)
    assert torch.equal(model(x), expected)


def test_it_compiles() -> None:
    model = Net()
    multiply_input(model.head, FACTOR)
    x = torch.rand(5, 6)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
