"""The code in docs/surrogates.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

PAGE = Path(__file__).parents[3] / "docs/surrogates.md"


class GPT(nn.Module):
    """One block of attention, its heads of 64."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.out = nn.Linear(width, 11)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x)
        logits: Tensor = self.out(h + self.attention(h, h, h, need_weights=False)[0])
        return logits


def small(width: int = 64) -> GPT:
    return GPT(width, heads=width // 16)


def loss_fn(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, 1), y.flatten())


@pytest.fixture
def context() -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randint(11, (2, 5))
    known = {"torch": torch, "GPT": GPT, "loss_fn": loss_fn, "x": x, "y": x, "tokens": x}
    return known | {"model": GPT(128, 2)}


def test_the_documented_code_runs(
    context: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    by_width, by_ratio, checked, by_hand = re.findall(
        r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    exec(by_width, context)
    assert context["surrogate"].module.attention.num_heads == 2
    assert context["loss"].isfinite()
    exec(by_ratio.replace("by=8", "by=2"), context)
    assert context["surrogate"].module.attention.num_heads == 1
    assert "128 -> 64" in capsys.readouterr().out
    context |= {"gpt": small, "next_tokens": context["x"].roll(-1, dims=1)}
    exec(checked, context)
    assert {verdict.layer for verdict in context["report"].layers} >= {"tokens", "attention", "out"}
    exec(by_hand, context)
    rules = context["surrogates"][0].rules
    assert (rules["mix"].kind.value, rules["shift"].kind.value) == ("hidden weight", "vector")
    assert all(p.isfinite().all() for p in context["bundle"].parameters())
