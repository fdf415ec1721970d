"""The study of the benchmark: that of examples/digits, without an end."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from digits_example import MLP, digits  # type: ignore[import-not-found]  # beside it when it runs
from torch import nn

from hydro_hpc.study import Study, log_uniform, uniform

study = Study(
    name="endless",
    model=MLP,
    data=digits,
    loss=nn.CrossEntropyLoss(),
    space={
        "lr": log_uniform(2e-4, 1e-2),
        "weight_decay": log_uniform(1e-6, 1e-3),
        "beta1": uniform(0.8, 0.95),
    },
    optimizer="adam",
    search="random",
    epochs=80,
    batch_size=32,
    trials=100_000,
)
