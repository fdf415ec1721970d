"""Tunes the GPT of `train.py` by a narrow one of the same layers, whose best settings are its own.

sbatch --hydro-bubble=study.py train.sbatch   # in the bubbles of the training itself
python study.py                               # here, one trial after the other
"""

from __future__ import annotations

import gpt
import torch
from torch import Tensor, nn

from hydro_hpc.study import Study, log_uniform, uniform
from hydro_hpc.surrogate import Narrow

LAYERS, SEQ = 4, 128  # as by default in train.py, and so the width, the batch and the steps
BATCH, STEPS, TEST_WINDOWS = 16, 200, 64

torch.set_num_threads(1)


def model(width: int = 128) -> nn.Sequential:
    """tokens_BT -> logits_BTV: what the pipeline's stages are together."""
    layers = gpt.layers(width=width, num_blocks=LAYERS, seq=SEQ, seed=torch.initial_seed())
    return nn.Sequential(*(layer(*arguments) for layer, arguments in layers))


def windows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The last tenth of the text is for the test."""
    text, generator = gpt.read_text(), torch.Generator().manual_seed(0)
    train, test = text.split([len(text) * 9 // 10, len(text) - len(text) * 9 // 10])
    starts = [
        torch.randint(len(part) - SEQ, (count, 1), generator=generator)
        for part, count in ((train, STEPS * BATCH), (test, TEST_WINDOWS))
    ]
    return *gpt.window_at(train, starts[0], SEQ), *gpt.window_at(test, starts[1], SEQ)


study = Study(
    name="gpt",
    model=model,
    surrogate=Narrow(width=32),
    data=windows,
    loss=gpt.loss_fn,
    metrics="loss",
    space={
        "lr": log_uniform(1e-4, 3e-2),
        "beta1": uniform(0.8, 0.95),
        "beta2": uniform(0.9, 0.999),
        "weight_decay": 0.01,  # as in train.py; its best value would not be the wide one's
        "clip_norm": 1.0,
    },
    optimizer="adamw",
    epochs=1,
    batch_size=BATCH,
    trials=32,
    slots=4,  # together as large as the wide one
)

if __name__ == "__main__":
    study.run()
