"""Other sizes and other orders of pixels and channels."""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F

from hydro_hpc.nn.functional.samples import leading, per_row, per_sample

interpolate: Final = per_row(F.interpolate)
local_response_norm: Final = per_row(F.local_response_norm)
channel_shuffle: Final = per_row(F.channel_shuffle)
pixel_shuffle: Final = leading(F.pixel_shuffle, rank=3)
pixel_unshuffle: Final = leading(F.pixel_unshuffle, rank=3)
unfold: Final = per_sample(F.unfold, rank=4)
fold: Final = per_sample(F.fold, rank=3)
