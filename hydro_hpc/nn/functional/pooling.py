"""Pooling: slots and batch are folded into one axis, which pooling leaves alone."""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F

from hydro_hpc.nn.functional.samples import per_sample

max_pool1d: Final = per_sample(F.max_pool1d, rank=3)
max_pool2d: Final = per_sample(F.max_pool2d, rank=4)
max_pool3d: Final = per_sample(F.max_pool3d, rank=5)
avg_pool1d: Final = per_sample(F.avg_pool1d, rank=3)
avg_pool2d: Final = per_sample(F.avg_pool2d, rank=4)
avg_pool3d: Final = per_sample(F.avg_pool3d, rank=5)
lp_pool1d: Final = per_sample(F.lp_pool1d, rank=3)
lp_pool2d: Final = per_sample(F.lp_pool2d, rank=4)
lp_pool3d: Final = per_sample(F.lp_pool3d, rank=5)
adaptive_avg_pool1d: Final = per_sample(F.adaptive_avg_pool1d, rank=3)
adaptive_avg_pool2d: Final = per_sample(F.adaptive_avg_pool2d, rank=4)
adaptive_avg_pool3d: Final = per_sample(F.adaptive_avg_pool3d, rank=5)
adaptive_max_pool1d: Final = per_sample(F.adaptive_max_pool1d, rank=3)
adaptive_max_pool2d: Final = per_sample(F.adaptive_max_pool2d, rank=4)
adaptive_max_pool3d: Final = per_sample(F.adaptive_max_pool3d, rank=5)
