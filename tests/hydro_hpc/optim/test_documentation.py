"""The loop in docs/optimizers.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from hydro_hpc import optim
from hydro_hpc.fusion import bind, losses

PAGE = Path(__file__).parents[3] / "docs/optimizers.md"


def test_the_documented_loop_trains() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(3)]
    bundle = bind(models, example=torch.rand(2, 4))
    x, y = torch.rand(3, 8, 4), torch.randint(2, (3, 8))
    known = {name: getattr(optim, name) for name in optim.__all__}
    loop = {"bundle": bundle, "batches": [(x, y)] * 30, "loss_fn": nn.functional.cross_entropy}
    before = losses(nn.functional.cross_entropy, bundle(x), y)
    exec(code, known | loop | {"losses": losses, "CosineAnnealingLR": CosineAnnealingLR})
    assert (losses(nn.functional.cross_entropy, bundle(x), y) < before).all()
