"""Calls whose output element depends on the input element at the same place alone, and of whose
arguments only the first may be a tensor."""

from __future__ import annotations

import operator
from typing import Final

import torch
import torch.nn.functional as F

ELEMENTWISE_FUNCTIONS: Final = frozenset(
    {
        torch.abs, torch.acos, torch.asin, torch.atan, torch.ceil, torch.clamp, torch.clip,
        torch.cos, torch.cosh, torch.erf, torch.erfc, torch.exp, torch.expm1, torch.floor,
        torch.isfinite, torch.isinf, torch.isnan, torch.log, torch.log10, torch.log1p, torch.log2,
        torch.logical_not, torch.nan_to_num, torch.neg, torch.reciprocal, torch.relu, torch.round,
        torch.rsqrt, torch.sigmoid, torch.sign, torch.sin, torch.sinh, torch.sqrt, torch.square,
        torch.tan, torch.tanh, torch.trunc, F.celu, F.elu, F.gelu, F.hardshrink, F.hardsigmoid,
        F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid, F.mish, F.relu, F.relu6, F.selu,
        F.sigmoid, F.silu, F.softplus, F.softshrink, F.softsign, F.tanh, F.tanhshrink, F.threshold,
        operator.abs, operator.neg,
    }
)  # fmt: skip
ELEMENTWISE_METHODS: Final = frozenset(
    {
        "abs", "acos", "asin", "atan", "bfloat16", "bool", "ceil", "clamp", "clamp_", "clip",
        "clone", "contiguous", "cos", "cosh", "cpu", "detach", "double", "erf", "exp", "exp_",
        "expm1", "float", "floor", "half", "int", "isfinite", "isinf", "isnan", "log", "log10",
        "log1p", "log2", "logical_not", "long", "nan_to_num", "neg", "reciprocal", "relu", "relu_",
        "round", "rsqrt", "sigmoid", "sigmoid_", "sign", "sin", "sinh", "sqrt", "square", "tan",
        "tanh", "tanh_", "trunc",
    }
)  # fmt: skip
