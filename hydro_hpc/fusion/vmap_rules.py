"""What torch's own vmap refuses, runs slowly or draws from one stream, done for all slots by us."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from hydro_hpc.fusion.separate import SlotCalls, name_of
from hydro_hpc.nn.dropout import Dropout
from hydro_hpc.nn.shapes import align

# Called once per slot, inside the slot's own stream.
PER_SLOT: Final = frozenset(
    {
        "alpha_dropout", "bernoulli", "dropout1d", "dropout2d", "dropout3d", "embedding_bag",
        "feature_alpha_dropout", "gru", "gru_cell", "gumbel_softmax", "lstm", "lstm_cell",
        "multi_head_attention_forward", "multinomial", "normal", "poisson", "rand", "rand_like",
        "scaled_dot_product_attention",
        "randint", "randint_like", "randn", "randn_like", "randperm", "rnn_relu", "rnn_relu_cell",
        "rnn_tanh", "rnn_tanh_cell", "rrelu",
    }
)  # fmt: skip
ONE_VALUE: Final = frozenset(
    {"__bool__", "__complex__", "__float__", "__index__", "__int__", "item", "numpy", "tolist"}
)  # of one slot, under vmap there is none


class SlotRules(TorchFunctionMode):
    """Active around a forward under `torch.vmap` over slots; `anchor` [slots] makes a result that
    depends on no input one per slot. Set it to a tensor of the running vmap first.

    `asked` is what a forward asked that has one answer per slot, whether it went on without or not.
    """

    running: ClassVar[SlotRules | None] = None

    def __init__(self, calls: SlotCalls) -> None:
        super().__init__()
        self._calls = calls
        self.anchor: Tensor = torch.empty(0)
        self.asked: str | None = None

    def __enter__(self) -> SlotRules:
        SlotRules.running = self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        SlotRules.running = None
        super().__exit__(*exception)  # type: ignore[no-untyped-call]

    def before_backward(self, output: Tensor, call: Callable[..., None]) -> Tensor:
        """The same output; `call` is called when its backward is about to begin."""

        def hooked(x: Tensor) -> Tensor:
            if x.grad_fn is not None:
                x.grad_fn.register_prehook(call)
            return x.view_as(x)

        found: Tensor = self._slot_first(hooked, (output,), {})
        return found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        name = name_of(func)
        if name in ONE_VALUE and torch._C._functorch.is_batchedtensor(args[0]):
            self.asked = f"reads the value of a tensor ({name})"
        if func is F.dropout:
            return self._slot_first(self._dropout, args, kwargs)
        if func is F.embedding:
            return self._slot_first(_embedding, args, kwargs)
        if func is F.scaled_dot_product_attention and not _drops(*args, **kwargs):
            return self._slot_first(_attention, args, kwargs)
        if name in PER_SLOT:
            calls = [func] * self._calls.state.slots
            return self._slot_first(lambda *a, **k: self._calls.run(calls, a, k), args, kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        module = Dropout([p] * x.size(0), self._calls.streams)
        module.train(training)
        return x.copy_(module(x)) if inplace else module(x)

    def _slot_first(
        self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`call` gets and gives tensors [slots, ...]."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        found: list[Any] = []

        def physical(info: Any, dims: Sequence[int | None], values: Sequence[Any]) -> Any:
            whole = [_leading(x, dim, info.batch_size) for x, dim in zip(values, dims, strict=True)]
            own_args, own_kwargs = pytree.tree_unflatten(whole, spec)
            outputs, out_spec = pytree.tree_flatten(call(*own_args, **own_kwargs))
            found.append(out_spec)
            return tuple(outputs), (0,) * len(outputs)

        outputs = _SlotFirst.apply(physical, self.anchor, *leaves)  # type: ignore[no-untyped-call]
        return pytree.tree_unflatten(list(outputs), found[0])


def before_backward(output: object, call: Callable[..., None]) -> object:
    """A module's output such that `call` is called right before the backward of what made it."""
    if not isinstance(output, Tensor):
        return output
    if SlotRules.running is not None:
        return SlotRules.running.before_backward(output, call)
    if output.grad_fn is not None:
        output.grad_fn.register_prehook(call)  # in C: Tensor.register_hook takes 20 us
    return output


class _SlotFirst(torch.autograd.Function):
    """Hands the tensors under a vmap, whole, to a function that is differentiable as it is."""

    @staticmethod
    def forward(call: Any, anchor: Tensor, *leaves: Any) -> Any:
        del call, anchor, leaves
        raise RuntimeError("no vmap over slots is running")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        del ctx, inputs, output

    @staticmethod
    def vmap(info: Any, in_dims: Any, call: Any, anchor: Tensor, *leaves: Any) -> Any:
        del anchor
        return call(info, in_dims[2:], leaves)


def _leading(x: Any, dim: int | None, slots: int) -> Any:
    """A tensor with slots as its first axis."""
    if not isinstance(x, Tensor):
        return x
    return x.expand(slots, *x.shape) if dim is None else x.movedim(dim, 0)


def _drops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    *_: Any,
    **__: Any,
) -> bool:
    """Says whether an attention drops: from each slot's stream then, in torch's own order."""
    del q, k, v, attn_mask
    return dropout_p > 0.0


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Slots are one more leading axis, which torch's own takes."""
    rank = max(q.ndim, k.ndim, v.ndim)
    q, k, v = (align(x, rank) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, align(attn_mask, rank), *args, **kwargs)


def _embedding(
    index_FB: Tensor,
    weight_FVD: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """A look-up per slot: torch's own has one table of all slots, and an index beyond the
    vocabulary finds a neighbour's row."""
    rows = [
        F.embedding(index, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        for index, weight in zip(index_FB.unbind(0), weight_FVD.unbind(0), strict=True)
    ]
    return torch.stack(rows)
