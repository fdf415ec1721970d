"""Narrow models that are found by following one forward call, against what their authors would
build at that width.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.table import Kind
from hydro_hpc.surrogate.tracing.calling import called
from tests.hydro_hpc.surrogate.tracing.unusual_models import MODELS

WIDTH, BY = 64, 4
RAW = ("raw", "standardised", "vit", "experts", "latents", "scaled", "graph", "crossed")
"""Whose parameters are of no layer."""


@functools.cache
def shrunk(name: str) -> Surrogate:
    """Followed once for all tests, which leave it as it is."""
    build, example = MODELS[name]
    return shrink(build(WIDTH), by=BY, example=example)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODELS)
def test_a_followed_model_has_its_authors_sizes(name: str) -> None:
    build, example = MODELS[name]
    authors = build(WIDTH // BY)
    narrow = copy.deepcopy(shrunk(name).module)
    expected = {key: tuple(tensor.shape) for key, tensor in authors.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in narrow.state_dict().items()} == expected
    assert repr(narrow) == repr(authors)
    authors.load_state_dict(narrow.state_dict())
    for module in narrow.modules():
        module._forward_pre_hooks.clear()  # the readout's multiplier, which the author has not
    torch.testing.assert_close(called(narrow.eval(), example), called(authors.eval(), example))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODELS)
def test_the_rules_are_those_of_a_function_of_the_width(name: str) -> None:
    build, example = MODELS[name]
    followed = shrunk(name).rules
    uses = example if name in RAW else None  # else by the classes of modules
    built = shrink(lambda width=WIDTH: build(width), by=BY, example=uses).rules
    assert followed == built


@pytest.mark.parametrize("name", ["cached", "dropped", "lstm"])
def test_following_a_model_leaves_it_as_it_was(name: str) -> None:
    build, example = MODELS[name]
    target = build(WIDTH)
    before = [{**vars(m), **m._buffers, **m._parameters} for m in target.modules()]
    shrink(target, by=BY, example=example)
    for module, own in zip(target.modules(), before, strict=True):
        after = {**vars(module), **module._buffers, **module._parameters}
        assert after.keys() == own.keys()
        assert all(after[key] is own[key] or after[key] == own[key] for key in own)


def test_gains_whose_results_are_averaged_are_no_readouts() -> None:
    kinds = {shrunk("scaled").rules[name].kind for name in ("gain", "shift", "scale")}
    assert kinds == {Kind.VECTOR}


class Patterned(nn.Module):
    """It begins as an identity: of stacked gates, of a convolution."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.into, self.cells = nn.Conv1d(3, width, 1), nn.GRU(width, width, batch_first=True)
        self.conv, self.out = nn.Conv1d(width, width, 3, padding=1), nn.Linear(width, 3)
        for gate in self.cells.weight_hh_l0.chunk(3):
            nn.init.eye_(gate)
        nn.init.dirac_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.into(x)).transpose(1, 2)
        return self.out(self.cells(x)[0])  # type: ignore[no-any-return]


def test_an_identity_stays_one() -> None:
    narrow = shrink(Patterned(), by=BY, example=torch.randn(2, 3, 5)).module
    expected = Patterned(WIDTH // BY)
    for name in ("cells.weight_hh_l0", "conv.weight"):
        torch.testing.assert_close(narrow.get_parameter(name), expected.get_parameter(name))
