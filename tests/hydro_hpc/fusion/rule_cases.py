"""Arguments for every rule, by the name of the call. Slots, batch, channels and lengths differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from hydro_hpc.fusion import rules

SLOTS: Final = 3


class Named(dict[str, Any]):
    """Arguments by name, as the last of some arguments."""


def x(*shape: int) -> Tensor:
    """[slots, *shape], all values different."""
    return torch.rand(SLOTS, *shape, dtype=torch.float64) + 0.5


def signed(*shape: int) -> Tensor:
    return torch.randn(SLOTS, *shape, dtype=torch.float64)


def places(end: int, *shape: int) -> Tensor:
    return torch.randint(0, end, (SLOTS, *shape))


def mask(*shape: int) -> Tensor:
    return torch.rand(SLOTS, *shape) > 0.5


Arguments = Callable[[], tuple[Any, ...]]


def one(*shape: int, then: tuple[Any, ...] = (), **named: Any) -> Arguments:
    return lambda: (signed(*shape), *then, *([Named(named)] if named else []))


def each(names: tuple[str, ...], makers: list[Arguments]) -> dict[str, list[Arguments]]:
    """The same arguments for several calls."""
    return dict.fromkeys(names, makers)


def two(first: tuple[int, ...], second: tuple[int, ...]) -> list[Arguments]:
    return [lambda: (x(*first), x(*second))]


BROADCAST: Final = [
    *two((5, 4, 7), (5, 4, 7)),
    *two((5, 4, 7), (4, 1)),
    *two((7,), (5, 4, 7)),
    *two((5, 4), ()),
    lambda: (x(5, 4), 3),
    lambda: (2, x(5, 4)),
    lambda: (x(5, 4).float(), x()),
    lambda: (x(), places(9, 5, 4) + 1),
]
BITS: Final[list[Arguments]] = [
    lambda: (mask(5, 4), mask(4)),
    lambda: (places(8, 5, 4), places(8)),
    lambda: (mask(5, 4), True),
]
WRITTEN: Final = [*two((5, 4, 7), (4, 1)), *two((5, 4), ()), lambda: (x(5, 4), 3)]
THREE: Final[list[Arguments]] = [
    lambda: (x(5, 4), x(4), x(5, 1)),
    lambda: (x(5, 4), x(2, 5, 4), x(4)),
]
PICKED: Final[list[Arguments]] = [
    lambda: (mask(5, 4), x(4), x(5, 1)),
    lambda: (mask(5), x(7, 5), 0.0),
]
MATMUL: Final = [
    *two((5, 4), (4, 7)),
    *two((2, 5, 4), (4, 7)),
    *two((2, 5, 4), (2, 4, 7)),
    *two((4,), (4, 7)),
    *two((4,), (2, 4, 7)),
    *two((2, 5, 4), (4,)),
    *two((4,), (4,)),
    *two((5, 4), (4,)),
]
PLUS: Final[list[Arguments]] = [
    lambda: (x(7), x(5, 4), x(4, 7)),
    lambda: (x(5, 7), x(5, 4), x(4, 7), Named(beta=0.5, alpha=2)),
    lambda: (x(2, 5, 7), x(2, 5, 4), x(2, 4, 7)),
    lambda: (x(), x(2, 5, 4), x(2, 4, 7), Named(alpha=3)),
    lambda: (x(5), x(5, 4), x(4)),
]
EINSUM: Final[list[Arguments]] = [
    lambda: ("bi,bj->bij", x(5, 4), x(5, 7)),
    lambda: ("b t h, h o", x(5, 4, 7), x(7, 2)),
    lambda: ("...i,ij->...j", x(5, 2, 4), x(4, 7)),
    lambda: ("...i,i", x(5, 2, 4), x(4)),
    lambda: ("ii->i", x(5, 5)),
    lambda: ("ij->ji", [x(5, 4)]),
]
DIM: Final = [one(5, 4, 7, then=(dim,)) for dim in (0, 1, 2, -1, -3)]
KEPT: Final = [one(5, 4, 7, then=(1, True)), one(5, 4, dim=-1, keepdim=True)]
DIMS: Final = [
    one(5, 4, 7),
    *DIM,
    one(5, 4, 7, then=((0, 2),)),
    one(5, 4, 7, then=((),)),
    *KEPT,
    one(),
]
ALONG: Final = [one(5, 4, 7), *DIM, *KEPT]
EXTREME: Final = [*ALONG, *two((5, 4, 7), (4, 1))]
SPREAD: Final = [
    one(5, 4, 7),
    one(5, 4, then=(1,)),
    one(5, 4, then=(False,)),
    one(5, 4, 7, then=((0, 2), False, True)),
    one(5, 4, dim=0, correction=2, keepdim=True),
]
NORM: Final = [
    one(5, 4, 7),
    one(5, 4, then=(1,)),
    one(5, 4, 7, then=(3, 1)),
    one(5, 4, 7, then=(2, (0, 2), True)),
    one(),
]
SHAPES: Final = [
    one(5, 4, 6, then=(5, -1)),
    one(5, 4, 6, then=((-1, 3),)),
    one(5, 4, 6, then=(-1,)),
]
FLATTEN: Final = [
    one(5, 4, 6),
    one(5, 4, 6, then=(1,)),
    one(5, 4, 6, then=(0, 1)),
    one(5, then=(-1,)),
    one(),
]
SWAP: Final = [one(5, 4, 7, then=(0, 1)), one(5, 4, 7, then=(-1, 1))]
POOL1: Final = [one(5, 2, 8, then=(2,)), one(2, 8, then=(3, 2))]
POOL2: Final = [
    one(5, 2, 6, 8, then=(2,)),
    one(5, 2, 6, 8, then=((3, 2), 1, 1)),
    one(2, 6, 8, then=(2,)),
]
POOL3: Final = [one(5, 2, 4, 6, 8, then=(2,)), one(2, 4, 6, 8, then=(2, 1))]
ADAPTIVE2: Final = [one(5, 2, 6, 8, then=((2, 3),)), one(2, 6, 8, then=(3,))]
STATISTICS: Final[list[Arguments]] = [
    lambda: (signed(5, 4, 7), None, None, x(4), x(4), True),
    lambda: (signed(5, 4, 7, 6), x(4), x(4), None, None, True, 0.3, 1e-3),
    lambda: (signed(5, 4, 7), x(4), x(4), x(4), x(4), False),
]


def attention(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value; keys are one more than queries."""
    *batch, queries, width = shape
    keys = (*batch, queries + 1, width)
    return signed(*shape), signed(*keys), signed(*keys)


ATTENTION: Final[list[Arguments]] = [
    lambda: attention(5, 2, 7, 4),
    lambda: attention(5, 7, 4),
    lambda: attention(7, 4),
    lambda: (*attention(5, 2, 7, 4), mask(7, 8) | torch.eye(7, 8).bool()),
    lambda: (*attention(5, 2, 7, 4), signed(5, 1, 1, 8)),
    lambda: (*attention(5, 7, 4), signed(7, 8)),
    lambda: (*attention(5, 2, 7, 4), (mask(7, 8) | torch.eye(7, 8).bool())[:1].expand(SLOTS, 7, 8)),
    lambda: (*attention(5, 2, 7, 4), None, 0.0, True),
    lambda: (*attention(5, 2, 7, 4), Named(scale=0.3, is_causal=True)),
    lambda: (
        signed(5, 6, 7, 4), signed(5, 2, 7, 4), signed(5, 2, 7, 4), Named(enable_gqa=True)
    ),
]  # fmt: skip

LAYERS: Final[dict[str, list[Arguments]]] = {
    **each(("max_pool1d", "avg_pool1d"), POOL1),
    **each(("max_pool2d", "avg_pool2d"), POOL2),
    **each(("max_pool3d", "avg_pool3d"), POOL3),
    "lp_pool1d": [one(5, 2, 8, then=(2.0, 2))],
    "lp_pool2d": [one(5, 2, 6, 8, then=(2.0, (2, 3)))],
    "lp_pool3d": [one(5, 2, 4, 6, 8, then=(2.0, 2))],
    **each(("adaptive_avg_pool1d", "adaptive_max_pool1d"), [one(5, 2, 8, then=(3,))]),
    **each(("adaptive_avg_pool2d", "adaptive_max_pool2d"), ADAPTIVE2),
    **each(("adaptive_avg_pool3d", "adaptive_max_pool3d"), [one(5, 2, 4, 6, 8, then=(2,))]),
    **each(("softmax", "log_softmax", "softmin"), DIM),
    **each(("batch_norm", "instance_norm"), STATISTICS),
    "linear": [lambda: (x(5, 4), x(7, 4), x(7)), lambda: (x(2, 5, 4), x(7, 4))],
    "bilinear": [lambda: (x(5, 4), x(5, 2), x(7, 4, 2), x(7)), lambda: (x(4), x(2), x(7, 4, 2))],
    "conv1d": [
        lambda: (x(5, 2, 7), x(4, 2, 3), x(4)),
        lambda: (x(2, 7), x(4, 1, 3), None, 2, 1, 1, 2),
    ],
    "conv2d": [lambda: (x(5, 2, 7, 6), x(4, 2, 3, 5), x(4), 1, "same")],
    "conv3d": [lambda: (x(5, 2, 3, 7, 6), x(4, 2, 1, 3, 2))],
    "conv_transpose1d": [lambda: (x(5, 4, 7), x(4, 3, 2), x(6), 2, 1, 1, 2)],
    "conv_transpose2d": [lambda: (x(5, 4, 7, 6), x(4, 3, 2, 3), None, 2)],
    "conv_transpose3d": [lambda: (x(5, 4, 3, 7, 6), x(4, 3, 2, 3, 2), x(3))],
    "layer_norm": [lambda: (signed(5, 7, 4), (4,), x(4), x(4)), lambda: (signed(5, 7, 4), [7, 4])],
    "rms_norm": [lambda: (signed(5, 7, 4), (4,), x(4)), lambda: (signed(5, 4), [4], None, 0.1)],
    "group_norm": [lambda: (signed(5, 4, 7), 2, x(4), x(4)), one(5, 4, 7, 6, then=(2,))],
    "prelu": [lambda: (signed(5, 4, 7), x(4)), lambda: (signed(5, 4, 7), x(1))],
    "glu": [one(5, 4, 6), one(5, 4, 7, then=(1,))],
    "normalize": [one(5, 4, 7), one(5, 4, 7, then=(3.0, -1)), one(5, 4, dim=0)],
    "embedding": [
        lambda: (places(9, 5, 7), x(9, 4)),
        lambda: (places(9, 7), x(9, 4), 2),
        lambda: (places(9, 7)[:1].expand(SLOTS, 7), x(9, 4)),
    ],
    "embedding_bag": [
        lambda: (places(9, 5, 7), x(9, 4)),
        lambda: (places(9, 5, 7), x(9, 4), Named(mode="sum", per_sample_weights=x(5, 7))),
    ],
    "one_hot": [lambda: (places(9, 5, 7), 9)],
    "pad": [
        one(5, 4, 7, then=((1, 2),)),
        one(5, 4, 7, then=((1, 2, 3, -1), "constant", 0.5)),
        one(5, 4, 7, then=((1, 2), "reflect")),
        one(5, 4, 7, 6, then=((1, 2, 0, 1), "circular")),
        one(4, 7, then=((1, 2), "replicate")),
    ],
    "interpolate": [
        one(5, 4, 7, then=(9,)),
        one(5, 4, 7, 6, scale_factor=2, mode="bilinear"),
        one(5, 4, 7, 6, size=(9, 5), mode="bicubic", align_corners=True),
    ],
    "pixel_shuffle": [one(5, 8, 7, 6, then=(2,))],
    "pixel_unshuffle": [one(5, 2, 4, 6, then=(2,))],
    "channel_shuffle": [one(5, 6, 7, 4, then=(3,))],
    "local_response_norm": [one(5, 4, 7, then=(3,))],
    "unfold": [one(5, 2, 7, 6, then=((2, 3),)), one(5, 7, 6, then=(1, 3, 2))],
    "fold": [one(5, 8, 6, then=((4, 6), 2, 1, 0, 2))],
    "cosine_similarity": [*two((5, 4, 7), (4, 7)), lambda: (signed(5, 4), signed(5, 4), -1, 0.1)],
    "pairwise_distance": [*two((5, 4), (5, 4)), lambda: (signed(5, 4), signed(4), 3.0, 1e-3, True)],
    "scaled_dot_product_attention": ATTENTION,
}

REARRANGED: Final[dict[str, list[Arguments]]] = {
    **each(("reshape", "view"), SHAPES),
    **each(("reshape_as", "view_as"), [lambda: (x(5, 4, 6), x(4, 30))]),
    **each(("transpose", "swapaxes", "swapdims"), SWAP),
    **each(("numel", "dim"), [one(5, 4), one()]),
    "size": [one(5, 4), one(5, 4, then=(0,)), one(5, 4, then=(-1,))],
    "flatten": FLATTEN,
    "unflatten": [one(5, 6, 7, then=(1, (2, -1))), one(5, 6, then=(-1, (3, 2)))],
    "squeeze": [
        one(5, 1, 7, then=(1,)),
        one(1, 4, then=(0,)),
        one(4, 1, then=(-1,)),
        one(1, 4, 1, 7),
        one(4, 7),
        one(1, 4, 1, then=((0, 2),)),
    ],
    "unsqueeze": [one(5, 4, then=(dim,)) for dim in (0, 1, 2, -1, -3)],
    "permute": [one(5, 4, 7, then=(2, 0, -2)), one(5, 4, 7, then=((1, 0, 2),))],
    "movedim": [one(5, 4, 7, then=(0, -1)), one(5, 4, 7, then=((0, 1), (2, 0)))],
    "t": [one(5, 4), one(5)],
    "expand": [one(5, 1, then=(5, 4)), one(4, then=((5, -1),)), one(then=(5, 4))],
    "broadcast_to": [one(5, 1, then=((2, 5, 4),))],
    "expand_as": [lambda: (x(4, 1), x(5, 4, 7)), lambda: (x(), x(5, 4))],
    "repeat": [one(5, 4, then=(2, 3)), one(4, then=((2, 1),))],
    "tile": [one(5, 4, then=((2, 3),)), one(5, 4, then=((2,),))],
    "repeat_interleave": [one(5, 4, then=(2,)), one(5, 4, then=(2, 0))],
    "roll": [one(5, 4, then=(2,)), one(5, 4, then=(1, 1)), one(5, 4, then=((1, 2), (0, -1)))],
    "flip": [one(5, 4, then=((0,),)), one(5, 4, then=(0, -1)), one(5, 4, then=((1,),))],
    "narrow": [one(5, 4, then=(1, 1, 2))],
    "select": [one(5, 4, then=(0, 2)), one(5, 4, then=(-1, -1))],
    "diagonal": [one(5, 4), one(2, 5, 4, then=(1, -2, -1))],
    "chunk": [one(5, 4, then=(2,)), one(5, 4, then=(2, -1))],
    "split": [one(5, 4, then=(2,)), one(5, 4, then=([1, 3], 1))],
    "unbind": [one(5, 4), one(5, 4, then=(-1,))],
    **each(
        ("cat", "concat"),
        [
            lambda: ([x(5, 4), x(5, 2)], 1),
            lambda: ([x(5, 4), x(3, 4)],),
            lambda: ((x(5, 4), x(5, 4)), -1),
        ],
    ),
    "stack": [
        lambda: ([x(5, 4), x(5, 4)],),
        lambda: ((x(5, 4), x(5, 4)), -1),
        lambda: ([x(5, 4), x(5, 4)], 1),
    ],
    "getitem": [
        *(
            one(5, 4, 7, then=(index,))
            for index in (
                0,
                slice(1, 3),
                (slice(None), 2),
                (slice(None), -1, slice(0, 4)),
                None,
                (..., 0),
                (None, ..., slice(0, 3)),
                (0, None, ..., -1),
                slice(None, None, 2),
            )
        ),
        lambda: (x(5, 4, 7), places(5, 2)),
        lambda: (x(5, 4, 7), places(5, 2, 3)),
        lambda: (x(5, 4, 7), places(5)),
        lambda: (x(5, 4, 7), (places(5, 2), places(4, 2))),
        lambda: (x(5, 4, 7), (slice(None), places(4, 2))),
        lambda: (x(5, 4, 7), (slice(None), slice(1, 3), places(7, 2, 6))),
        lambda: (x(5, 4, 7), (slice(None), places(4), slice(0, 2))),
        lambda: (x(5, 4, 7), (places(5, 2, 1), places(4, 6), slice(0, 2))),
    ],
    "getattr": [
        one(5, 4, then=(name,))
        for name in sorted(rules.READABLE)
        if name not in ("values", "indices")
    ],
}

CHOSEN: Final[dict[str, list[Arguments]]] = {
    "gather": [
        lambda: (x(5, 4), 1, places(4, 5, 2)),
        lambda: (x(5, 4), 0, places(5, 2, 4)),
        lambda: (x(5, 4), -1, places(4, 3, 2)),
    ],
    "take_along_dim": [lambda: (x(5, 4), places(4, 5, 2), 1)],
    "index_select": [lambda: (x(5, 4, 7), 1, places(4, 2)), lambda: (x(5, 4), 0, places(5, 6))],
    "scatter": [
        lambda: (x(5, 4), 1, places(4, 5, 1), x(5, 1)),
        lambda: (x(5, 4), 0, places(5, 1, 4), 2.0),
    ],
    "scatter_add": [lambda: (x(5, 4), 1, places(4, 5, 2), x(5, 2))],
    "topk": [one(5, 4, then=(2,)), one(5, 4, then=(2, 0, False))],
    "sort": [one(5, 4), one(5, 4, then=(0, True)), one(5, 4, dim=-2)],
    "argsort": [one(5, 4), one(5, 4, then=(0, True))],
    "tril": [one(5, 4), one(2, 5, 4, then=(-1,))],
    "triu": [one(5, 4), one(2, 5, 4, then=(1,))],
}

BY_NAME: Final[dict[str, list[Arguments]]] = {
    **LAYERS,
    **REARRANGED,
    **CHOSEN,
    **each(
        (
            "add", "sub", "mul", "div", "truediv", "floordiv", "pow", "mod", "true_divide",
            "floor_divide", "fmod", "remainder", "lt", "le", "gt", "ge", "maximum",
            "minimum", "atan2",
        ),
        BROADCAST,
    ),
    **each(("eq", "ne"), [lambda: (places(3, 5, 4), places(3, 4)), lambda: (places(3, 5), 1)]),
    **each(("logical_and", "logical_or", "logical_xor"), BITS),
    **each(("and_", "or_", "xor"), BITS),
    "invert": [lambda: (mask(5, 4),)],
    **each(("add_", "sub_", "mul_", "div_"), WRITTEN),
    **each(("addcmul", "addcdiv", "lerp"), THREE),
    "where": [*PICKED, lambda: (x(5, 4), mask(4), x(5, 1))],
    **each(
        ("masked_fill", "masked_fill_"),
        [lambda: (x(5, 4), mask(4), 2.0), lambda: (x(5, 4), mask(5, 1), x())],
    ),
    **each(("matmul", "bmm", "mm", "mv", "dot"), MATMUL),
    **each(("addmm", "addmv", "baddbmm"), PLUS),
    "outer": two((5,), (4,)),
    "einsum": EINSUM,
    **each(("mean", "sum", "amax", "amin"), DIMS),
    **each(("all", "any"), [lambda: (mask(2, 5, 4),), lambda: (mask(5, 2), 1, True)]),
    "logsumexp": [*DIM, *KEPT, one(5, 4, 7, then=((0, 2),))],
    **each(("argmax", "argmin", "prod"), ALONG),
    **each(("max", "min"), EXTREME),
    **each(("cumsum", "cumprod", "logcumsumexp"), DIM),
    **each(("var", "std"), SPREAD),
    **each(("norm", "linalg_vector_norm"), NORM),
    "arange": [lambda: (7,), lambda: (2, 9, 3), lambda: (7, Named(dtype=torch.float64))],
    "full_like": [one(5, 4, then=(2.5,))],
    **each(("ones_like", "zeros_like"), [one(5, 4), one(5, 4, dtype=torch.long)]),
    "new_full": [one(5, 4, then=((2, 3), 1.5))],
    **each(("new_zeros", "new_ones"), [one(5, 4, then=(2, 3)), one(5, 4, then=((2,),))]),
    "to": [one(5, 4, then=(torch.float32,)), lambda: (x(5, 4), places(9, 2))],
    "type": [one(5, 4, then=(torch.float32,))],
    "type_as": [lambda: (x(5, 4), places(9, 2))],
}  # fmt: skip
