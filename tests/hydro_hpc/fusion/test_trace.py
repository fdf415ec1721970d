"""What a graph would freeze is found, with the reason; values stay right."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from hydro_hpc.fusion import ExecutorKind, bind, trial_stream
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.report import BundleReport
from hydro_hpc.fusion.trace import trace_model
from hydro_hpc.nn import Refused
from tests.hydro_hpc.fusion.architectures import vectors


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)


class DataDependent(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return y * 2 if y.sum() > 0 else y


class ReadsAValue(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * float(x.abs().max())


class CountsCalls(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x) * self.calls


class KeepsItsOutput(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.fc(x)
        return self.last


class AppendsToAList(Base):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(1)
        return self.fc(x)


class CountsInATensor(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.fc(x)


class DrawsInPython(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if random.random() < 2 else x


class DrawsInTorch(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * torch.rand(6, dtype=torch.float64)


class PlainTensorAttribute(Base):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.rand(6, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale


class MovingBuffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ema", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        if self.training:
            self.ema = 0.9 * self.ema + 0.1 * y.detach().mean(0)
        return y + self.ema


class NoGradPart(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            constant = self.fc(x)
        return constant + self.fc(x)


def prelu() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.PReLU())


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6))
    model[0].register_forward_hook(lambda *call: call[2] * 2)
    return model


def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU())


class Inside(nn.Module):
    """A part that no graph can hold, in a model that one can."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.first, self.part, self.last = nn.Linear(6, 6), part, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.part(self.first(x))))


REFUSALS: dict[Callable[[], nn.Module], str] = {
    DataDependent: "forward cannot be traced",
    ReadsAValue: "forward cannot be traced",
    CountsCalls: "forward writes to the attribute 'calls'",
    KeepsItsOutput: "forward writes to the attribute 'last'",
    AppendsToAList: "forward writes to the attribute 'seen'",
    CountsInATensor: "forward writes to the attribute 'calls'",
    DrawsInPython: "forward draws random numbers outside torch",
    MovingBuffer: "forward writes to the attribute 'ema'",
}
PER_SLOT: dict[Callable[[], nn.Module], tuple[str, str]] = {
    DrawsInTorch: ("'rand' in `return self.fc.*`", "'rand' has no fused rule"),
    hooked: ("0", "Linear '0' has hooks"),
    weight_norm: ("0", "ParametrizedLinear '0' has no fused rule"),
}


def grouped(make: Callable[[], nn.Module]) -> BundleReport:
    torch.manual_seed(0)
    models = [make().double() for _ in range(3)]
    return bind(models, example=vectors(), executor=ExecutorKind.GROUPED).report


@pytest.mark.parametrize("make", REFUSALS, ids=lambda make: make.__name__)
def test_a_model_whose_own_forward_no_graph_holds_is_not_grouped(
    make: Callable[[], nn.Module],
) -> None:
    report = grouped(make)
    assert report.executor is ExecutorKind.LOOP
    assert re.search(REFUSALS[make], report.reason), report.reason


@pytest.mark.parametrize("make", REFUSALS, ids=lambda make: make.__name__)
def test_such_a_part_runs_once_per_slot_and_the_rest_is_grouped(
    make: Callable[[], nn.Module],
) -> None:
    report = grouped(lambda: Inside(make()))
    assert report.executor is ExecutorKind.GROUPED
    assert list(report.per_slot) == ["part"]
    reason = REFUSALS[make].replace("forward", f"forward of {make.__name__} 'part'")
    assert re.match(reason, report.per_slot["part"])


@pytest.mark.parametrize("make", PER_SLOT, ids=lambda make: make.__name__)
def test_what_has_no_rule_runs_once_per_slot_with_the_reason(
    make: Callable[[], nn.Module],
) -> None:
    report = grouped(make)
    assert report.executor is ExecutorKind.GROUPED
    what, why = PER_SLOT[make]
    found = {w: reason for w, reason in report.per_slot.items() if re.fullmatch(what, w)}
    assert list(found.values()) == [why]


@pytest.mark.parametrize("make", [NoGradPart, PlainTensorAttribute])
def test_gradients_switched_off_and_plain_tensors_are_understood(
    make: Callable[[], nn.Module],
) -> None:
    report = grouped(make)
    assert report.executor is ExecutorKind.GROUPED
    assert not report.per_slot


STATEFUL = [CountsCalls, CountsInATensor, MovingBuffer, KeepsItsOutput, AppendsToAList]


@pytest.mark.parametrize("make", [DataDependent, PlainTensorAttribute, prelu, *STATEFUL])
def test_the_loop_gives_what_separate_models_give(make: Callable[[], nn.Module]) -> None:
    models = [make().double() for _ in range(3)]
    bundle = bind(models, example=vectors())
    for _ in range(3):
        x = vectors(3)
        found = bundle(x)
        for slot, model in enumerate(models):
            torch.testing.assert_close(found[slot], model(x[slot]), rtol=1e-12, atol=1e-12)
    for slot, model in enumerate(models):
        own = bundle.unbind(slot)
        assert all(torch.equal(t, own.state_dict()[n]) for n, t in model.state_dict().items())
        assert getattr(own, "calls", 3) == 3


def test_random_draws_in_the_loop_come_from_the_trials_own_stream() -> None:
    models = [DrawsInTorch().double() for _ in range(3)]
    bundle = bind(models, example=vectors(), seeds=[5, 6, 7])
    x = vectors(3)
    found = bundle(x)
    for slot, (model, seed) in enumerate(zip(models, (5, 6, 7), strict=True)):
        with trial_stream(seed, 0):
            torch.testing.assert_close(found[slot], model(x[slot]))


def test_tracing_leaves_the_model_as_it_is() -> None:
    model = AppendsToAList()
    with pytest.raises(Refused):
        trace_model(model, InputForm.of((vectors(1),), {}))
    assert model.seen == []
    assert set(vars(KeepsItsOutput())) == set(vars(model)) - {"seen"}


def test_models_that_make_different_calls_go_to_the_loop() -> None:
    class Scaled(Base):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.scale

    models = [Scaled(1.0).double(), Scaled(3.0).double()]
    bundle = bind(models, example=vectors())
    assert "forward of trial 1 makes other calls than that of trial 0" in bundle.report.reason
    x = vectors(2)
    torch.testing.assert_close(bundle(x)[1], models[1](x[1]))


def test_a_reason_names_the_source_line() -> None:
    class Spectrum(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(self.fc(x), dim=1).real

    assert list(grouped(Spectrum).per_slot) == [
        "'fft_fft' in `return torch.fft.fft(self.fc(x), dim=1).real`",
        "'getattr'",
    ]


def test_a_model_with_its_own_train_method_keeps_it() -> None:
    class FrozenNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

        def train(self, mode: bool = True) -> FrozenNorm:
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.fc(x))

    models = [FrozenNorm().double() for _ in range(2)]
    bundle = bind(models, example=vectors(), executor=ExecutorKind.GROUPED)
    assert bundle.report.executor is ExecutorKind.GROUPED
    for mode in (True, False, True):
        bundle.train(mode)
        x = vectors(2)
        found = bundle(x)
        for slot, model in enumerate(models):
            torch.testing.assert_close(found[slot], model.train(mode)(x[slot]))
    assert bundle.unbind(0).norm.num_batches_tracked == 0 or models[0].norm.training
