"""Functions of `torch.nn.functional` for tensors [slots, *unfused shape].

F slots, B batch, I/O in and out features or channels, H/W height and width. The logical layout is
always slots first; the memory may be batch first, which is what grouped convolutions want. A slot
dimension of 1 stands for one value that all slots share.
"""

from hydro_hpc.nn.functional.activation import (
    glu,
    log_softmax,
    normalize,
    prelu,
    softmax,
    softmin,
)
from hydro_hpc.nn.functional.attention import scaled_dot_product_attention
from hydro_hpc.nn.functional.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from hydro_hpc.nn.functional.distance import cosine_similarity, pairwise_distance
from hydro_hpc.nn.functional.lookup import embedding, embedding_bag, one_hot
from hydro_hpc.nn.functional.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)
from hydro_hpc.nn.functional.padding import pad
from hydro_hpc.nn.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from hydro_hpc.nn.functional.products import bilinear, linear
from hydro_hpc.nn.functional.resampling import (
    channel_shuffle,
    fold,
    interpolate,
    local_response_norm,
    pixel_shuffle,
    pixel_unshuffle,
    unfold,
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "bilinear",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cosine_similarity",
    "embedding",
    "embedding_bag",
    "fold",
    "glu",
    "group_norm",
    "instance_norm",
    "interpolate",
    "layer_norm",
    "linear",
    "local_response_norm",
    "log_softmax",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
    "rms_norm",
    "scaled_dot_product_attention",
    "softmax",
    "softmin",
    "unfold",
]
