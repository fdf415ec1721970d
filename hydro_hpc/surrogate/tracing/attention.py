"""The factor on attention's logits, by value, at the target's width and at the surrogate's.

Right is, with heads of size d, a factor that falls as 1/d from one width to the other: it stays if
the size of heads stays. 1/sqrt(d), which is right at one width, is wrong between two. Queries and
keys that are divided by their norms take a root of that each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.tracing.calling import called, said_by_line

aten: Final = torch.ops.aten
TOLERANCE: Final = 0.01  # relative, of half precision too
ROUNDING: Final = 0.02  # of norms, in half precision

PRODUCTS: Final = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.baddbmm: 1}
"""By how many arguments come before the two factors."""
KERNELS: Final = frozenset(
    {
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
    }
)
SOFTMAXES: Final = frozenset({aten._softmax, aten._safe_softmax})
MULTIPLIED: Final = frozenset({aten.mul, aten.mul_, aten.div, aten.div_})
DIVIDED: Final = frozenset({aten.div, aten.div_})
PASSED: Final = frozenset(
    {
        *(aten.add, aten.add_, aten.sub, aten.sub_, aten.masked_fill, aten.masked_fill_),
        *(aten.where, aten.clone, aten.copy_, aten._to_copy, aten._unsafe_view, aten.cat),
    }
)
"""What is added to logits, and in what form they are kept, leaves their factor as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Logits are `factor` times a product over `head_size` values; None if that could not be told.
    `num_normed` of the two sides are divided by their norms before.
    """

    path: str  # of the innermost module in whose call it is
    head_size: int
    factor: float | None
    num_normed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFinding:
    """One attention at both widths."""

    target: Attention
    narrow: Attention

    @property
    def expected(self) -> float | None:
        """The surrogate's factor, if it were right."""
        if self.target.factor is None:
            return None
        ratio = self.target.head_size / self.narrow.head_size
        return self.target.factor * math.pow(ratio, 1 - self.target.num_normed / 2)

    @property
    def is_told(self) -> bool:
        """Says whether both factors are known."""
        are_alike = self.target.num_normed == self.narrow.num_normed
        return are_alike and None not in (self.target.factor, self.narrow.factor)

    @property
    def is_right(self) -> bool:
        """False if it is not told."""
        if self.expected is None or self.narrow.factor is None or not self.is_told:
            return False
        return math.isclose(self.narrow.factor, self.expected, rel_tol=TOLERANCE)

    @property
    def sentence(self) -> str:
        """What is wrong, where, and what to do."""
        target, narrow = self.target, self.narrow
        if not self.is_told:
            return (
                f"by what the attention in '{target.path}' multiplies its logits cannot be told: "
                "it must depend on the size of heads alone, and not on the width"
            )
        if target.head_size == narrow.head_size:
            return (
                f"the attention in '{target.path}' multiplies its logits by {target.factor:.4g} at "
                f"the target's width and by {narrow.factor:.4g} at the surrogate's, though its "
                f"heads have {target.head_size} values at both: let the factor depend on the size "
                "of heads alone"
            )
        return (
            f"the heads of the attention in '{target.path}' have {target.head_size} values in the "
            f"target and {narrow.head_size} in the surrogate, whose logits are multiplied by "
            f"{narrow.factor:.4g} where muP needs {self.expected:.4g}: keep the size of heads, as "
            f"heads = width // {target.head_size}"
        )


def attention_findings(
    target: nn.Module, narrow: nn.Module, example: Any
) -> tuple[AttentionFinding, ...]:
    """Of each attention that a call on the example makes in both models, right or not. Neither
    model is changed, nor torch's random state.
    """
    with said_by_line(target, example):
        wide = {each.path: each for each in attentions(target, example)}
    with said_by_line():
        found = {each.path: each for each in attentions(narrow, example)}
    return tuple(
        AttentionFinding(target=each, narrow=found[path])
        for path, each in wide.items()
        if path in found
    )


def check_attention(target: nn.Module, narrow: nn.Module, example: Any) -> tuple[str, ...]:
    """What could not be told, a sentence each. ShrinkError, with the module, if the factor on some
    logits is not the surrogate's to have.
    """
    findings = attention_findings(target, narrow, example)
    for finding in findings:
        if finding.is_told and not finding.is_right:
            raise ShrinkError(finding.sentence)
    return tuple(finding.sentence for finding in findings if not finding.is_told)


def attentions(model: nn.Module, example: Any) -> tuple[Attention, ...]:
    """In the order of the call, which is of a copy of the model."""
    own = copy.deepcopy(model)
    probe = _Probe()
    given = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), example)
    for leaf in pytree.tree_leaves(given):
        if isinstance(leaf, Tensor):
            probe.states[leaf] = _State()
    # With gradients, since without them torch's own layers run in one opaque kernel.
    with torch.random.fork_rng(), torch.enable_grad(), probe.follow(own), probe:
        called(own, given)
    return tuple(probe.found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """An activation: `factor` is by what plain numbers multiplied it since a layer gave it, None if
    that is not known; `head_size` is over how many values two activations were multiplied for it,
    of which `num_normed` had been divided by their norms.
    """

    factor: float | None = 1.0
    head_size: int | None = None
    num_normed: int = 0


class _Probe(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.states = WeakTensorKeyDictionary()
        self.found: list[Attention] = []
        self._paths: list[str] = [""]

    @contextmanager
    def follow(self, model: nn.Module) -> Iterator[None]:
        """Knows, within it, in whose call it is."""
        hooks = []
        for path, module in model.named_modules():
            enter, leave = self._enter(path), self._leave
            hooks.append(module.register_forward_pre_hook(enter, prepend=True))
            hooks.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, path: str) -> Any:
        return lambda *_: self._paths.append(path)

    def _leave(self, *_: Any) -> None:
        self._paths.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(tensor in self.states for tensor in given):
            state = self._after(func, args, kwargs or {}, given, result)
            for made in pytree.tree_leaves(result):
                if isinstance(made, Tensor):
                    self.states[made] = state
        return result

    def _after(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[Tensor],
        result: Any,
    ) -> _State:
        packet = func.overloadpacket
        if packet in PRODUCTS:
            skipped = PRODUCTS[packet]
            left, right = args[skipped : skipped + 2]
            return self._product(left, right, float(kwargs.get("alpha", 1.0)))
        if packet in KERNELS:
            scale = kwargs.get("scale")
            size = int(args[0].shape[-1])
            scale = size**-0.5 if scale is None else float(scale)
            self._end(self._product(args[0], args[1], scale))
            return _State()
        if packet in SOFTMAXES:
            self._end(self._of(given))
            return _State()
        if packet in DIVIDED and _has_unit_rows(result):
            return _State(num_normed=1)
        if packet in MULTIPLIED:
            return self._multiplied(args, given, is_divided=packet in DIVIDED)
        return self._of(given) if func.is_view or packet in PASSED else _State()

    def _of(self, given: list[Tensor]) -> _State:
        """That of logits, if one is such."""
        states: list[_State] = [self.states[x] for x in given if x in self.states]
        return next((s for s in states if s.head_size is not None), states[0])

    def _product(self, left: Tensor, right: Tensor, scale: float) -> _State:
        """Of two activations; what a parameter is a factor of begins anew."""
        one, other = self.states.get(left), self.states.get(right)
        if one is None or other is None:
            return _State()
        are_known = one.factor is not None and other.factor is not None
        return _State(
            factor=one.factor * other.factor * scale if are_known else None,
            head_size=int(left.shape[-1]),
            num_normed=one.num_normed + other.num_normed,
        )

    def _multiplied(
        self, args: tuple[Any, ...], given: list[Tensor], *, is_divided: bool
    ) -> _State:
        state = self._of(given)
        others = [x for x in args[:2] if not isinstance(x, Tensor) or x not in self.states]
        if len(others) != 1:
            return replace(state, factor=None) if is_divided else state
        other = others[0]
        if isinstance(other, Tensor) and other.numel() != 1:
            return replace(state, factor=None) if is_divided else state
        number = float(other.detach()) if isinstance(other, Tensor) else float(other)
        if state.factor is None or not number:
            return replace(state, factor=None)
        return replace(state, factor=state.factor / number if is_divided else state.factor * number)

    def _end(self, state: _State) -> None:
        if state.head_size is not None:
            found = Attention(
                path=self._paths[-1],
                head_size=state.head_size,
                factor=state.factor,
                num_normed=state.num_normed,
            )
            self.found.append(found)


def _has_unit_rows(tensor: Tensor) -> bool:
    """Along its last axis; its values are looked at."""
    if tensor.ndim < 3 or tensor.shape[-1] < 2:
        return False
    norms = tensor.detach().float().norm(dim=-1)
    return bool(torch.isclose(norms, torch.ones_like(norms), atol=ROUNDING).all())
