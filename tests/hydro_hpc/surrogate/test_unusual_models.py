"""Models that are unusual and can be shrunk: what becomes of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from hydro_hpc.nn.multiplier import InputMultiplier
from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Kind
from tests.hydro_hpc.surrogate.oracle_models import values

TARGET, NARROW = 64, 16
M = NARROW / TARGET
INPUT, VECTOR = Scaling(kind=Kind.INPUT, m_out=M), Scaling(kind=Kind.VECTOR, m_out=M)
HIDDEN = Scaling(kind=Kind.HIDDEN, m_in=M, m_out=M)
OUTPUT, FIXED = Scaling(kind=Kind.OUTPUT, m_in=M), Scaling(kind=Kind.FIXED)
Factory = Callable[..., nn.Module]


def multipliers(surrogate: Surrogate) -> dict[str, float]:
    return {
        path: hook.factor
        for path, module in surrogate.module.named_modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, InputMultiplier)
    }


def spread(build: Callable[[], nn.Module], name: str, draws: int = 20) -> float:
    return float(values(build, draws)[name].double().square().mean().sqrt())


def change(factory: Factory, name: str, draws: int = 20) -> float:
    narrow = spread(lambda: shrink(factory, width=NARROW).module, name, draws)
    return narrow / spread(factory, name, draws)


def drawn_alike(layer: nn.Linear) -> nn.Linear:
    nn.init.normal_(layer.weight, std=0.02)
    return layer


def weight_normed(width: int = TARGET) -> nn.Module:
    normed = parametrizations.weight_norm
    return nn.Sequential(
        normed(nn.Linear(20, width)),
        normed(drawn_alike(nn.Linear(width, width))),
        nn.Linear(width, 3),
    )


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def weight_normed_by_hooks(width: int = TARGET) -> nn.Module:
    normed = torch.nn.utils.weight_norm
    return nn.Sequential(
        normed(nn.Linear(20, width)),
        normed(drawn_alike(nn.Linear(width, width))),
        nn.Linear(width, 3),
    )


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    ("factory", "gain", "direction"),
    [
        (weight_normed, "parametrizations.weight.original0", "parametrizations.weight.original1"),
        (weight_normed_by_hooks, "weight_g", "weight_v"),
    ],
)
def test_weight_norm_is_a_vector_of_gains_and_a_weight(
    factory: Factory, gain: str, direction: str
) -> None:
    surrogate = shrink(factory, width=NARROW)
    rules = surrogate.rules
    assert (rules[f"0.{gain}"], rules[f"0.{direction}"]) == (VECTOR, INPUT)
    assert (rules[f"1.{gain}"], rules[f"1.{direction}"]) == (VECTOR, HIDDEN)
    surrogate.module(torch.randn(2, 20))
    weight = surrogate.module[1].weight  # type: ignore[index]
    assert float(weight.detach().std()) == pytest.approx(0.02 * M**-0.5, rel=0.1)
    assert change(factory, f"1.{gain}") == pytest.approx(1.0, rel=0.02)
    assert change(factory, f"1.{direction}") == pytest.approx(M**-0.5, rel=0.02)


class Vision(nn.Module):
    """Positions and tokens as people write them: each is only added or joined."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.prompts = nn.Parameter(torch.randn(1, 2, width))
        self.places = nn.Parameter(torch.empty(1, 7, width))
        self.columns = nn.Parameter(torch.randn(7, width))
        self.scale = nn.Parameter(torch.full((width,), 1e-4))
        self.reset()
        self.head = nn.Linear(width, 10)

    def reset(self) -> None:
        nn.init.trunc_normal_(self.places, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        start = self.start.expand(x.size(0), -1, -1)
        x = torch.cat([start, self.prompts.expand(x.size(0), -1, -1), x], dim=1)
        places = self.places[:, : x.size(1)]
        x = x + places
        x += self.columns[: x.size(1)].unsqueeze(0)
        head: Tensor = self.head((self.scale * x)[:, 0])
        return head.log_softmax(-1)


def test_positions_and_tokens_that_are_added_are_vectors() -> None:
    surrogate = shrink(Vision, width=NARROW)
    for name in ("start", "prompts", "places", "columns", "scale"):
        assert surrogate.rules[name] == VECTOR
    assert surrogate.module(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert multipliers(surrogate) == {"head": 1 / M}


class Raw(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(20, width) / 20**0.5)
        self.hidden = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.out = nn.Parameter(torch.randn(3, width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ self.into).relu() @ self.hidden).relu() @ self.out.T


def test_raw_weights_whose_use_is_said_have_rules() -> None:
    """A raw readout has no input that could be multiplied: its spread and rates make up for it."""
    uses = {"into": (1, 0), "hidden": (1, 0), "out": (0, 1)}
    surrogate = shrink(Raw, width=NARROW, uses=uses)
    out = Scaling(kind=Kind.BARE_OUTPUT, m_in=M)
    assert surrogate.rules == {"into": INPUT, "hidden": HIDDEN, "out": out}
    assert not multipliers(surrogate)
    rates = {
        optimizer: {
            id(p): group["lr"]
            for group in surrogate.param_groups(optimizer, lr=1.0)
            for p in group["params"]
        }[id(surrogate.module.out)]
        for optimizer in ("sgd", "adam")
    }
    assert rates == {"sgd": 1 / M, "adam": 1 / M}


class Layered(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.hidden = nn.Linear(20, width, bias=False), nn.Linear(width, width)
        self.out = nn.Linear(width, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.hidden(self.into(x).relu()).relu())
        return out


class HalfRaw(Layered):
    """The same, its readout a raw parameter."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.out = nn.Parameter(self.out.weight.detach())  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(self.into(x).relu()).relu() @ self.out.T  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [("sgd", torch.optim.SGD), ("rmsprop", torch.optim.RMSprop)],
)
def test_a_raw_readout_trains_as_a_layer_does(
    optimizer: str, make: type[torch.optim.Optimizer]
) -> None:
    """Step by step the same function, but for the guard of rmsprop against small gradients."""
    x, y = torch.randn(32, 20), torch.randint(3, (32,))
    outputs = []
    for factory in (Layered, HalfRaw):
        torch.manual_seed(0)
        surrogate = shrink(
            factory, width=NARROW, uses={"out": (0, 1)} if factory is HalfRaw else {}
        )
        training = make(surrogate.param_groups(optimizer, lr=1e-3))  # type: ignore[call-arg]
        for _ in range(5):
            training.zero_grad()
            nn.functional.cross_entropy(surrogate.module(x), y).backward()
            training.step()
        outputs.append(surrogate.module(x))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)


class Adapted(nn.Module):
    """A frozen layer with an adapter of a fixed rank, whose second matrix begins at zero."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.base = nn.Linear(8, width), nn.Linear(width, width)
        self.base.requires_grad_(False)
        self.down = nn.Linear(width, 4, bias=False)
        self.up = nn.Linear(4, width, bias=False)
        nn.init.zeros_(self.up.weight)


def test_frozen_layers_stay_frozen_and_adapters_lead_out_and_in() -> None:
    surrogate = shrink(Adapted, width=NARROW)
    assert surrogate.rules["base.weight"] == HIDDEN
    assert (surrogate.rules["down.weight"], surrogate.rules["up.weight"]) == (OUTPUT, INPUT)
    assert multipliers(surrogate) == {"down": 1 / M}
    assert not surrogate.module.get_parameter("up.weight").any()
    assert not any(p.requires_grad for p in surrogate.module.base.parameters())
    assert change(Adapted, "base.weight") == pytest.approx(M**-0.5, rel=0.02)


def flattened(width: int = TARGET) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, width), nn.Linear(width, 10), nn.LogSoftmax(-1)
    )


def flattened_inside(width: int = TARGET) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten(), nn.Linear(36 * width, 10))


def test_flattening_and_log_softmax_leave_inputs_and_classes_as_they_are() -> None:
    surrogate = shrink(flattened, width=NARROW)
    assert (surrogate.rules["1.weight"], surrogate.rules["2.weight"]) == (INPUT, OUTPUT)
    assert surrogate.module(torch.randn(5, 4, 4)).exp().sum().item() == pytest.approx(5)
    inside = shrink(flattened_inside, width=NARROW)
    assert inside.rules["2.weight"] == OUTPUT
    assert inside.module(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def rounded(width: int = 100) -> nn.Module:
    heads = max(1, round(width / 24))
    return nn.Sequential(
        nn.Linear(8, 24 * heads), nn.Linear(24 * heads, width), nn.Linear(width, 3)
    )


def test_the_ratio_of_each_axis_is_the_actual_one() -> None:
    rules = shrink(rounded, width=37).rules
    assert rules["0.weight"] == Scaling(kind=Kind.INPUT, m_out=0.5)
    assert rules["1.weight"] == Scaling(kind=Kind.HIDDEN, m_in=0.5, m_out=0.37)
    assert rules["2.weight"] == Scaling(kind=Kind.OUTPUT, m_in=0.37)


def in_groups(width: int = TARGET) -> nn.Module:
    groups = width // 8
    return nn.Sequential(
        nn.Conv1d(width, 2 * width, 3, groups=groups),
        nn.ConvTranspose1d(2 * width, width, 3, groups=groups),
        nn.ConvTranspose1d(width, 2 * width, 3, groups=4),
        nn.ConvTranspose1d(2 * width, 5, 3),
    )


def test_groups_that_grow_leave_the_fan_in_as_it_is() -> None:
    surrogate = shrink(in_groups, width=NARROW)
    found = [surrogate.rules[f"{number}.weight"] for number in range(4)]
    assert found == [INPUT, INPUT, HIDDEN, OUTPUT]
    assert multipliers(surrogate) == {"3": 1 / M}


def into_two_directions(width: int = TARGET) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.GRU(width, 5, bidirectional=True))


def test_a_layer_of_several_output_weights_has_its_input_multiplied_once() -> None:
    assert multipliers(shrink(into_two_directions, width=NARROW)) == {"1": 1 / M}


class TiedBag(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.words, self.out = nn.EmbeddingBag(50, width), nn.Linear(width, 50)
        self.out.weight = self.words.weight


def test_of_a_tied_table_only_the_readout_is_multiplied() -> None:
    assert multipliers(shrink(TiedBag, width=NARROW)) == {"out": 1 / M}


class Patterned(nn.Module):
    """Values that are the same under all seeds, and were not trained."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.same, self.cell = nn.Linear(width, width), nn.LSTM(width, width)
        nn.init.eye_(self.same.weight)
        nn.init.zeros_(self.cell.bias_ih_l0)
        nn.init.ones_(self.cell.bias_ih_l0[width : 2 * width])
        sines = torch.outer(torch.arange(9.0), 0.1 ** torch.linspace(0, 4, width)).sin()
        self.sines = nn.Parameter(sines, requires_grad=False)
        self.bank = nn.Conv2d(3, 4, 3)
        nn.init.constant_(self.bank.bias, 0.5)
        with torch.no_grad():
            self.bank.weight.copy_(torch.linspace(-1, 1, 108).view(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sines


def test_patterns_and_frozen_tables_are_no_fixed_weights() -> None:
    rules = shrink(Patterned, width=NARROW).rules
    assert (rules["sines"], rules["bank.weight"]) == (VECTOR, FIXED)
    identity = shrink(Patterned, width=NARROW).module.same.weight  # type: ignore[union-attr]
    assert torch.equal(identity.detach(), torch.eye(NARROW))  # type: ignore[union-attr]


def self_seeding(width: int = TARGET) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 3))


def test_a_factory_may_seed_itself() -> None:
    assert shrink(self_seeding, width=NARROW).rules["1.weight"] == HIDDEN


class Typed(nn.Module):
    """Half precision, complex values, none at all, whole numbers."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.halved = nn.Linear(width, width, dtype=torch.float16)
        self.waves = nn.Linear(width, width, dtype=torch.complex64)
        self.none = nn.Parameter(torch.empty(0, 5))
        self.count = nn.Parameter(torch.arange(width), requires_grad=False)
        nn.init.normal_(self.halved.weight, std=0.02)
        with torch.no_grad():
            self.waves.weight.copy_(torch.randn(width, width, dtype=torch.complex64) * 0.02)


def test_values_of_any_type_are_scaled() -> None:
    surrogate = shrink(Typed, width=NARROW)
    for name in ("halved.weight", "waves.weight"):
        assert surrogate.rules[name] == HIDDEN
        found = surrogate.module.get_parameter(name).detach()
        measured = float(found.abs().double().square().mean().sqrt())
        assert measured == pytest.approx(0.02 * M**-0.5, rel=0.15)
    assert surrogate.rules["none"] == FIXED
    assert surrogate.module.get_parameter("count").tolist() == [*range(NARROW)]


class Small(nn.Module):
    """Few values each: their law is told from several draws."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1)
        self.token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.place = nn.Parameter(torch.randn(1, 1, width) * 0.02)


@pytest.mark.parametrize("name", ["out.bias", "token", "place"])
def test_parameters_of_few_values_keep_their_spread(name: str) -> None:
    assert change(Small, name, 60) == pytest.approx(1.0, rel=0.25)


def test_all_draws_have_the_same_factor() -> None:
    factors = set()
    for seed in range(10):
        torch.manual_seed(seed)
        scaled = shrink(Small, width=NARROW).module
        torch.manual_seed(seed)
        drawn = Small(NARROW)
        ratio = scaled.get_parameter("token").detach() / drawn.token.detach()
        factors.add(round(float(ratio.mean()), 4))
    assert factors == {round(M**0.5, 4)}


def limited(width: int = TARGET) -> nn.Module:
    return {
        TARGET: nn.Linear(8, TARGET),
        NARROW: nn.Linear(8, NARROW),
    }[width]


def test_two_widths_are_enough_for_another_width_than_the_targets() -> None:
    assert shrink(limited, width=NARROW).rules["weight"] == INPUT


def draws_everywhere(width: int = TARGET) -> nn.Module:
    layer = nn.Linear(8, width)
    nn.init.constant_(layer.bias, random.random() + np.random.random())
    return layer


def test_the_surrogates_draws_are_the_users_and_no_more_are_taken() -> None:
    states = []
    biases = []
    for build in (lambda: shrink(draws_everywhere, width=NARROW).module, draws_everywhere):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        biases.append(float(build().bias.detach()[0]))
        states.append((random.random(), np.random.random()))
    assert biases[0] == biases[1]
    assert states[0] == states[1]
