"""Tunes a small network on scikit-learn's handwritten digits (8x8 pixels, bundled with it).

python study.py                        # here, one trial after the other
sbatch --bubbles=2 study.sbatch        # in the bubbles of other people's training jobs
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hydro_hpc.study import Study, log_uniform, uniform

TEST_ROWS = 360  # of 1797

torch.set_num_threads(1)  # networks this small only wait for a second thread


class MLP(nn.Module):
    """pixels [batch, 64] -> logits [batch, 10]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layers(pixels)
        return logits


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised pixels and classes, always in the same split."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(bunch.data, dtype=torch.float32)[order]
    y = torch.tensor(bunch.target, dtype=torch.long)[order]
    train_x, test_x = x[:-TEST_ROWS], x[-TEST_ROWS:]
    mean, std = train_x.mean(0), train_x.std(0).clamp_min(1.0)  # some pixels are always empty
    return (train_x - mean) / std, y[:-TEST_ROWS], (test_x - mean) / std, y[-TEST_ROWS:]


study = Study(
    name="digits",
    model=MLP,
    data=digits,
    loss=nn.CrossEntropyLoss(),
    metrics="accuracy",
    space={
        "lr": log_uniform(2e-4, 1e-2),
        "weight_decay": log_uniform(1e-6, 1e-3),
        "beta1": uniform(0.8, 0.95),
    },
    optimizer="adam",
    epochs=16,
    batch_size=32,
    trials=64,
)

if __name__ == "__main__":
    study.run()
