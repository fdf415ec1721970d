"""Narrow models that are found by following one forward call, against what their authors would
build at that width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc.surrogate import shrink
from tests.hydro_hpc.surrogate.tracing.models import MODELS

WIDTH, BY = 64, 4
RAW = ("raw", "standardised", "vit")  # whose parameters are of no layer


def called(model: nn.Module, example: Any) -> Any:
    return model(*example) if isinstance(example, tuple) else model(example)


@pytest.mark.parametrize("name", MODELS)
def test_a_followed_model_has_its_authors_sizes(name: str) -> None:
    build, example = MODELS[name]
    target, authors = build(WIDTH), build(WIDTH // BY)
    narrow = shrink(target, by=BY, example=example).module
    expected = {key: tuple(tensor.shape) for key, tensor in authors.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in narrow.state_dict().items()} == expected
    assert repr(narrow) == repr(authors)
    authors.load_state_dict(narrow.state_dict())
    for module in narrow.modules():
        module._forward_pre_hooks.clear()  # the readout's multiplier, which the author has not
    torch.testing.assert_close(called(narrow.eval(), example), called(authors.eval(), example))


@pytest.mark.parametrize("name", MODELS)
def test_the_rules_are_those_of_a_function_of_the_width(name: str) -> None:
    build, example = MODELS[name]
    followed = shrink(build(WIDTH), by=BY, example=example).rules
    uses = example if name in RAW else None  # else by the classes of modules
    built = shrink(lambda width=WIDTH: build(width), by=BY, example=uses).rules
    assert followed == built
