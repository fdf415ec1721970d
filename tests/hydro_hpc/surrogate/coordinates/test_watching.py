from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.surrogate.coordinates.watching import watch


class Attention(nn.Module):
    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.q, self.k, self.by_hand = nn.Linear(8, 8), nn.Linear(8, 8), by_hand

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        if not self.by_hand:
            return nn.functional.scaled_dot_product_attention(q, k, x, is_causal=True)
        logits = q @ k.transpose(-2, -1) / math.sqrt(8)
        mask = torch.ones(5, 5, dtype=torch.bool).tril()
        return logits.masked_fill(~mask, -torch.inf).softmax(-1) @ x


@pytest.mark.parametrize("by_hand", [True, False])
def test_logits_are_seen_however_attention_is_written(by_hand: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Attention(by_hand=by_hand))
    x = torch.randn(2, 5, 8)
    with watch(model) as seen:
        model(x)
    logits = model[0].q(x) @ model[0].k(x).transpose(-2, -1) / math.sqrt(8)
    torch.testing.assert_close(seen.outputs["0 logits"], logits.tril(), check_stride=False)
    assert seen.softmax == {"0 logits": {"0": 0, "": 0}}


def test_attention_of_torchs_own_module_is_seen() -> None:
    model = nn.MultiheadAttention(8, 2)
    x = torch.randn(5, 2, 8)
    with watch(nn.Sequential(model)) as seen:
        model(x, x, x)[0].sum().backward()
    assert "0 logits" in seen.outputs


def test_what_a_layer_gave_is_kept_though_the_next_works_in_place() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    x = torch.randn(3, 4)
    with watch(model) as seen:
        model(x)
    torch.testing.assert_close(seen.outputs["0"], model[0](x))


def test_nothing_is_left_at_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with watch(model) as seen:
        pass
    model(torch.randn(2, 4))
    assert not seen.outputs
