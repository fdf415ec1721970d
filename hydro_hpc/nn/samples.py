"""Modules without parameters or randomness that treat every sample of a batch by itself."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members

WINDOW: Final = ("kernel_size", "stride", "padding", "ceil_mode")
MAX: Final = (*WINDOW, "dilation", "return_indices")
AVERAGE: Final = (*WINDOW, "count_include_pad")
POWER: Final = ("norm_type", "kernel_size", "stride", "ceil_mode")
ADAPTIVE: Final = ("output_size",)
ADAPTIVE_MAX: Final = ("output_size", "return_indices")
RESIZE: Final = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")

# The function of `hydro_hpc.nn.functional` that each is, and its arguments, attributes of the
# module of the same names, equal in all slots.
PER_SAMPLE: Final[dict[type[nn.Module], tuple[str, tuple[str, ...]]]] = {
    nn.AdaptiveAvgPool1d: ("adaptive_avg_pool1d", ADAPTIVE),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", ADAPTIVE),
    nn.AdaptiveAvgPool3d: ("adaptive_avg_pool3d", ADAPTIVE),
    nn.AdaptiveMaxPool1d: ("adaptive_max_pool1d", ADAPTIVE_MAX),
    nn.AdaptiveMaxPool2d: ("adaptive_max_pool2d", ADAPTIVE_MAX),
    nn.AdaptiveMaxPool3d: ("adaptive_max_pool3d", ADAPTIVE_MAX),
    nn.AvgPool1d: ("avg_pool1d", AVERAGE),
    nn.AvgPool2d: ("avg_pool2d", (*AVERAGE, "divisor_override")),
    nn.AvgPool3d: ("avg_pool3d", (*AVERAGE, "divisor_override")),
    nn.ChannelShuffle: ("channel_shuffle", ("groups",)),
    nn.Fold: ("fold", ("output_size", "kernel_size", "dilation", "padding", "stride")),
    nn.LPPool1d: ("lp_pool1d", POWER),
    nn.LPPool2d: ("lp_pool2d", POWER),
    nn.LPPool3d: ("lp_pool3d", POWER),
    nn.LocalResponseNorm: ("local_response_norm", ("size", "alpha", "beta", "k")),
    nn.MaxPool1d: ("max_pool1d", MAX),
    nn.MaxPool2d: ("max_pool2d", MAX),
    nn.MaxPool3d: ("max_pool3d", MAX),
    nn.PixelShuffle: ("pixel_shuffle", ("upscale_factor",)),
    nn.PixelUnshuffle: ("pixel_unshuffle", ("downscale_factor",)),
    nn.Unfold: ("unfold", ("kernel_size", "dilation", "padding", "stride")),
    nn.Upsample: ("interpolate", RESIZE),
    nn.UpsamplingBilinear2d: ("interpolate", RESIZE),
    nn.UpsamplingNearest2d: ("interpolate", RESIZE),
}


class PerSample(Fused):
    """[F, B, ...] -> [F, B, ...], or without B where torch takes that; equals F of torch's."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.name = name

    @classmethod
    def of(cls, members: Members) -> PerSample:
        name, arguments = PER_SAMPLE[type(members.modules[0])]
        if "return_indices" in arguments:
            members.require("return_indices", False)
        return cls(name, **{argument: members.same(argument) for argument in arguments})

    def forward(self, x_FB: Tensor) -> Tensor:
        y: Tensor = getattr(functional, self.name)(x_FB, **self.settings)
        return y
