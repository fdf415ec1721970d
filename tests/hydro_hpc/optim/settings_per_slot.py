"""Optimizers, each with settings that differ between the slots: what equality is tested with."""

from __future__ import annotations

from typing import Final

from tests.hydro_hpc.optim.torch_oracle import Own

SETTINGS: Final[list[tuple[str, Own]]] = [
    ("SGD", {"lr": [0.1, 0.01, 0.2]}),
    (
        "SGD",
        {
            "lr": [0.1, 0.01, 0.2],
            "momentum": [0.9, 0.0, 0.5],
            "dampening": [0.0, 0.3, 0.2],
            "weight_decay": [0.0, 0.1, 0.01],
            "nesterov": [True, False, False],
            "maximize": [False, True, True],
        },
    ),
    ("SGD", {"lr": [0.1] * 3, "momentum": [0.9] * 3, "nesterov": [True] * 3}),
    (
        "SGD",
        {
            "lr": [0.1, 0.01, 0.2],
            "momentum": [0.9, 0.0, 0.5],
            "dampening": [0.3, 0.1, 0.2],
            "maximize": [True, False, False],
            "groups": [
                (["last.weight", "frozen"], {"momentum": [0.0, 0.3, 0.5], "lr": [0.3, 0.2, 0.1]}),
                (["first.bias"], {"maximize": [False, True, False]}),
            ],
        },
    ),
    ("Adam", {"lr": [0.1, 0.01, 0.2]}),
    (
        "Adam",
        {
            "lr": [0.1, 0.01, 0.2],
            "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)],
            "eps": [1e-8, 1e-3, 1e-5],
            "weight_decay": [0.0, 0.1, 0.01],
            "amsgrad": [True, False, True],
            "maximize": [False, True, True],
        },
    ),
    ("AdamW", {"lr": [0.1, 0.01, 0.2]}),
    (
        "AdamW",
        {
            "lr": [0.1, 0.01, 0.2],
            "betas": [(0.9, 0.999), (0.5, 0.9), (0.8, 0.99)],
            "eps": [1e-8, 1e-3, 1e-5],
            "weight_decay": [0.0, 0.1, 0.01],
            "amsgrad": [False, True, False],
            "maximize": [True, False, False],
        },
    ),
    (
        "AdamW",
        {
            "lr": [0.1, 0.01, 0.2],
            "weight_decay": [0.1, 0.2, 0.3],
            "groups": [
                (
                    ["scale", "first.bias"],
                    {
                        "weight_decay": [0.0, 0.0, 0.1],
                        "betas": [(0.9, 0.99), (0.6, 0.9), (0.7, 0.8)],
                        "amsgrad": [False, True, True],
                    },
                ),
                (["last.weight"], {"lr": [0.3, 0.1, 0.01], "eps": [1e-3, 1e-4, 1e-2]}),
            ],
        },
    ),
    ("RMSprop", {"lr": [0.1, 0.01, 0.02]}),
    (
        "RMSprop",
        {
            "lr": [0.1, 0.01, 0.02],
            "alpha": [0.9, 0.99, 0.5],
            "eps": [1e-8, 1e-3, 1e-5],
            "weight_decay": [0.0, 0.1, 0.01],
            "momentum": [0.9, 0.0, 0.5],
            "centered": [False, True, True],
            "maximize": [True, False, True],
        },
    ),
    (
        "RMSprop",
        {
            "lr": [0.1, 0.01, 0.02],
            "centered": [True, False, False],
            "groups": [
                (["frozen", "scale", "first.weight", "first.bias"], {"alpha": [0.8, 0.9, 0.95]}),
                (["last.weight"], {"momentum": [0.9, 0.0, 0.3], "centered": [False, True, False]}),
            ],
        },
    ),
    ("Adagrad", {"lr": [0.1, 0.01, 0.02]}),
    (
        "Adagrad",
        {
            "lr": [0.1, 0.01, 0.02],
            "lr_decay": [0.0, 0.1, 0.01],
            "weight_decay": [0.0, 0.1, 0.01],
            "initial_accumulator_value": [0.1, 0.0, 0.5],
            "eps": [1e-10, 1e-3, 1e-5],
            "maximize": [True, False, True],
        },
    ),
    (
        "Adagrad",
        {
            "lr": [0.1, 0.01, 0.02],
            "initial_accumulator_value": [0.1, 0.0, 0.5],
            "groups": [(["first.weight", "frozen"], {"lr_decay": [0.1, 0.2, 0.0]})],
        },
    ),
]
