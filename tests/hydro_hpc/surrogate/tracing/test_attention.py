"""The factor on attention's logits, in the forms in which people write it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.tracing.attention import AttentionFinding, findings_of
from hydro_hpc.surrogate.tracing.probe import Product, seen_in

TARGET, NARROW, HEADS = 64, 16, 4
Logits = Callable[[Tensor, Tensor, int], Tensor]  # of [batch, heads, time, size], and the width


def kernel(q: Tensor, k: Tensor, _: int) -> Tensor:
    return F.scaled_dot_product_attention(q, k, k)


def kernel_by_size(q: Tensor, k: Tensor, _: int) -> Tensor:
    return F.scaled_dot_product_attention(q, k, k, scale=4.0 / q.shape[-1], is_causal=True)


def attended(logits: Tensor, k: Tensor) -> Tensor:
    return logits.softmax(-1) @ k


def manual(q: Tensor, k: Tensor, _: int) -> Tensor:
    logits = (q @ k.transpose(-2, -1)) * k.shape[-1] ** -0.5
    mask = torch.ones(logits.shape[-2:]).tril() == 0
    return attended(logits.masked_fill(mask, float("-inf")), k)


def einsum(q: Tensor, k: Tensor, _: int) -> Tensor:
    return attended(torch.einsum("bhtd,bhsd->bhts", q, k) * q.shape[-1] ** -0.5, k)


def divided(q: Tensor, k: Tensor, _: int) -> Tensor:
    return attended(torch.matmul(q, k.mT) / math.sqrt(k.size(-1)) + torch.zeros(5, 5), k)


def divided_by_tensor(q: Tensor, k: Tensor, _: int) -> Tensor:
    return attended(q @ k.mT / torch.sqrt(torch.tensor(float(k.size(-1)))), k)


def added(q: Tensor, k: Tensor, _: int) -> Tensor:
    bias = torch.zeros(q.shape[0] * q.shape[1], 5, 5)
    left, right = q.flatten(0, 1), k.flatten(0, 1).mT
    logits = torch.baddbmm(bias, left, right, beta=0.0, alpha=q.shape[-1] ** -0.5)
    return attended(logits.view(*q.shape[:2], 5, 5), k)


def queries_scaled(q: Tensor, k: Tensor, _: int) -> Tensor:
    return attended((q * q.shape[-1] ** -0.5) @ k.mT, k)


def in_place(q: Tensor, k: Tensor, _: int) -> Tensor:
    q = q.clone()
    q *= q.shape[-1] ** -0.5
    return attended(q @ k.mT, k)


def both_scaled(q: Tensor, k: Tensor, _: int) -> Tensor:
    return attended((q * q.shape[-1] ** -0.25) @ (k.mT / k.shape[-1] ** 0.25), k)


def by_the_width(q: Tensor, k: Tensor, width: int) -> Tensor:
    return attended(q @ k.mT / math.sqrt(width), k)


FORMS: tuple[Logits, ...] = (
    kernel,
    manual,
    einsum,
    divided,
    divided_by_tensor,
    added,
    queries_scaled,
    in_place,
    both_scaled,
)


class Model(nn.Module):
    def __init__(self, width: int, heads: int, logits: Logits) -> None:
        super().__init__()
        self.heads, self.logits, self.width = heads, logits, width
        self.into, self.inner = nn.Linear(8, width), nn.ModuleDict({"mix": nn.Linear(width, width)})
        self.qk, self.out = nn.Linear(width, 2 * width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner["mix"](self.into(x))
        batch, time, width = x.shape
        qk = self.qk(x).view(batch, time, 2, self.heads, width // self.heads)
        q, k = qk.permute(2, 0, 3, 1, 4)
        y = self.logits(q, k, self.width).transpose(1, 2).reshape(batch, time, width)
        out: Tensor = self.out(y)
        return out


class Within(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


EXAMPLE = torch.randn(2, 5, 8)


def attention_findings(target: nn.Module, narrow: nn.Module) -> tuple[AttentionFinding, ...]:
    return findings_of(seen_in(target, EXAMPLE), seen_in(narrow, EXAMPLE))


@pytest.mark.parametrize("logits", FORMS)
def test_the_factor_is_found_by_value_in_any_form(logits: Logits) -> None:
    found = seen_in(Within(Model(TARGET, HEADS, logits)), EXAMPLE).logits
    assert [(each.path, each.size) for each in found] == [("inner", TARGET // HEADS)]
    assert found[0].factor == pytest.approx((TARGET // HEADS) ** -0.5, rel=1e-5)


def test_torchs_own_layers_are_seen() -> None:
    layer = nn.TransformerEncoderLayer(TARGET, HEADS, 32, batch_first=True)
    for model in (layer, layer.eval()):
        found = seen_in(model, torch.randn(2, 5, TARGET)).logits
        assert found == (Product(path="self_attn", size=16, factor=0.25),)


def test_what_is_no_attention_is_not_found() -> None:
    layers = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4), nn.Softmax(-1))
    assert seen_in(layers, EXAMPLE).logits == ()


@pytest.mark.parametrize("logits", FORMS)
def test_a_root_of_a_size_of_heads_that_changes_is_wrong(logits: Logits) -> None:
    target, narrow = (Model(width, HEADS, logits) for width in (TARGET, NARROW))
    (finding,) = attention_findings(target, narrow)
    assert not finding.is_right
    assert finding.expected == pytest.approx(finding.target.factor * TARGET / NARROW)


def test_one_over_a_size_of_heads_that_changes_is_right() -> None:
    target, narrow = (Model(width, HEADS, kernel_by_size) for width in (TARGET, NARROW))
    (finding,) = attention_findings(target, narrow)
    assert finding.is_right


@pytest.mark.parametrize("logits", FORMS)
def test_a_size_of_heads_that_stays_is_right(logits: Logits) -> None:
    target, narrow = (Model(width, width // 16, logits) for width in (TARGET, NARROW))
    (finding,) = attention_findings(target, narrow)
    assert finding.is_right


def test_a_factory_is_refused_whose_logits_are_scaled_wrongly() -> None:
    def heads_that_shrink(width: int = TARGET) -> nn.Module:
        return Within(Model(width, HEADS, manual))

    said = (
        "the heads of the attention in 'inner' have 16 values in the target and 4 in the "
        "surrogate, whose logits are multiplied by 0.5 where muP needs 1: keep the size of heads, "
        "as heads = width // 16, or multiply the logits by 16 / their size, which changes nothing "
        "in the target"
    )
    with pytest.raises(ShrinkError, match=f"^{re.escape(said)}$"):
        shrink(heads_that_shrink, width=NARROW, example=EXAMPLE)


def test_a_factor_of_the_width_is_refused_where_heads_keep_their_size() -> None:
    def of_the_width(width: int = TARGET) -> nn.Module:
        return Within(Model(width, width // 16, by_the_width))

    with pytest.raises(
        ShrinkError, match=r"'inner' multiplies its logits by 0[.]125 at the target"
    ):
        shrink(of_the_width, width=NARROW, example=EXAMPLE)


def test_models_and_random_state_are_as_before() -> None:
    model = Model(TARGET, HEADS, manual)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    seen_in(nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), model), EXAMPLE)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def cosine(q: Tensor, k: Tensor, _: int) -> Tensor:
    return attended(10 * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT, k)


def half_cosine(q: Tensor, k: Tensor, _: int) -> Tensor:
    return attended(q / q.norm(dim=-1, keepdim=True) @ k.mT / k.shape[-1] ** 0.5, k)


def cosine_by_the_width(q: Tensor, k: Tensor, width: int) -> Tensor:
    return attended(width * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT, k)


def untold(q: Tensor, k: Tensor, _: int) -> Tensor:
    return attended(q @ k.mT / q.abs().mean(-1, keepdim=True), k)


@pytest.mark.parametrize(("logits", "num_normed"), [(cosine, 2), (half_cosine, 1)])
def test_queries_and_keys_divided_by_their_norms_are_right_at_any_size_of_heads(
    logits: Logits, num_normed: int
) -> None:
    target, narrow = (Model(width, HEADS, logits) for width in (TARGET, NARROW))
    (finding,) = attention_findings(target, narrow)
    assert (finding.target.num_normed, finding.is_right) == (num_normed, True)


def test_a_cosines_factor_that_depends_on_the_width_is_wrong() -> None:
    target, narrow = (Model(width, HEADS, cosine_by_the_width) for width in (TARGET, NARROW))
    (finding,) = attention_findings(target, narrow)
    assert finding.is_told
    assert not finding.is_right


def test_what_cannot_be_told_of_attention_is_said() -> None:
    def build(width: int = TARGET) -> nn.Module:
        return Within(Model(width, width // 16, untold))

    said = "by what the attention in 'inner' multiplies its logits cannot be told"
    [line] = shrink(build, width=NARROW, example=EXAMPLE).report.warnings
    assert line.startswith(said)
    assert said in str(shrink(build(), by=4, example=EXAMPLE).report)
