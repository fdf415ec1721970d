"""Convolutional networks, in the forms of their papers' code."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.hydro_hpc.fusion import architectures
from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    Architecture,
    Batch,
    images,
    series,
)


class DenseNet(nn.Module):
    """Features of all layers before, concatenated; a transition; a functional head."""

    def __init__(self, growth: int = 3) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.layers = nn.ModuleList()
        width = 4
        for _ in range(2):
            self.layers.append(
                nn.Sequential(
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(width, growth, 3, padding=1, bias=False),
                )
            )
            width += growth
        self.transition = nn.Sequential(nn.Conv2d(width, 5, 1, bias=False), nn.AvgPool2d(2, 2))
        self.classifier = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.conv0(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        out = F.relu(self.transition(torch.cat(features, 1)), inplace=True)
        out = torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1)
        return self.classifier(out)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.down2 = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(nn.Conv2d(6, 7, 3, padding=1), nn.ReLU(inplace=True))
        self.up2 = nn.ConvTranspose2d(7, 6, kernel_size=2, stride=2)
        self.fuse2 = nn.Conv2d(12, 4, 3, padding=1)
        self.fuse1 = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        d1 = self.down1(x)
        d2 = self.down2(F.max_pool2d(d1, 2))
        m = self.middle(F.max_pool2d(d2, 2))
        u2 = F.relu(self.fuse2(torch.cat([self.up2(m), d2], dim=1)))
        u1 = F.interpolate(u2, size=d1.shape[2:], mode="bilinear", align_corners=False)
        return self.fuse1(torch.cat([u1, d1], dim=1))


def segmentation() -> Batch:
    x = torch.randn(BATCH, 2, 8, 8)
    return Batch(args=(x,), targets=torch.randint(0, 3, (BATCH, 8, 8)))


def dilated_conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding="same"),
        nn.ReLU(),
        nn.Conv1d(4, 6, 3, dilation=2, padding=2, padding_mode="circular"),
        nn.BatchNorm1d(6),
        nn.LeakyReLU(0.2),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    )


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, (1, 3, 3), padding=(0, 1, 1)),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.MaxPool3d(kernel_size=(1, 2, 2)),
        nn.Conv3d(4, 6, 2),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(6, CLASSES),
    )


class CausalConv(nn.Module):
    """A layer of a temporal convolutional network, weight norm and chomp as published."""

    def __init__(self, fan_in: int, fan_out: int, dilation: int) -> None:
        super().__init__()
        self.chomp = 2 * dilation
        self.conv = parametrizations.weight_norm(
            nn.Conv1d(fan_in, fan_out, 3, padding=self.chomp, dilation=dilation)
        )
        self.drop = nn.Dropout(0.2)
        self.down = nn.Conv1d(fan_in, fan_out, 1) if fan_in != fan_out else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(F.relu(self.conv(x)[:, :, : -self.chomp].contiguous()))
        return F.relu(y + (x if self.down is None else self.down(x)))


class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(CausalConv(2, 4, 1), CausalConv(4, 4, 2))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[:, :, -1])


class WaveNetBlock(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.filter = nn.Conv1d(width, width, 2, dilation=dilation)
        self.gate = nn.Conv1d(width, width, 2, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, 6, 1)
        self.pad = dilation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, (self.pad, 0))
        out = torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))
        return self.residual(out) + x, self.skip(out)


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 4, 1)
        self.blocks = nn.ModuleList([WaveNetBlock(4, 2**i) for i in range(2)])
        self.out = nn.Conv1d(6, 2 * CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = 0
        for block in self.blocks:
            x, skip = block(x)
            skips = skips + skip
        return F.glu(self.out(F.relu(skips)), dim=1).mean(dim=-1)


class StyleNet(nn.Module):
    """Reflection padding, instance and group norms, up-sampling: as in style transfer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(2, 4, 3),
            nn.InstanceNorm2d(4, affine=True),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"),
            nn.GroupNorm(2, 6),
            nn.SiLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(6, 2, 3, padding=1),
            nn.InstanceNorm2d(2, track_running_stats=True),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def pictures() -> Batch:
    x = torch.randn(BATCH, 2, 6, 6)
    return Batch(args=(x,), targets=torch.tanh(x.flip(-1)))


class SuperResolution(nn.Module):
    def __init__(self, upscale: int = 2) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, upscale**2, 3, 1, 1)
        self.pixel_shuffle = nn.PixelShuffle(upscale)
        for conv in (self.conv1, self.conv2):
            nn.init.orthogonal_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv1(x))
        return torch.sigmoid(self.pixel_shuffle(self.conv2(x)))


def low_and_high_resolution() -> Batch:
    high = torch.rand(BATCH, 1, 8, 8)
    return Batch(args=(F.avg_pool2d(high, 2),), targets=high)


def discriminator() -> nn.Module:
    spectral = parametrizations.spectral_norm
    return nn.Sequential(
        spectral(nn.Conv2d(2, 4, 4, 2, 1)),
        nn.LeakyReLU(0.2, inplace=True),
        spectral(nn.Conv2d(4, 6, 3)),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Flatten(),
        spectral(nn.Linear(6, 1)),
    )


def old_discriminator() -> nn.Module:
    spectral, weight = nn.utils.spectral_norm, nn.utils.weight_norm
    return nn.Sequential(
        spectral(nn.Linear(6, 8)), nn.LeakyReLU(0.2), weight(nn.Linear(8, 7)), nn.Linear(7, 1)
    )


def real_or_fake() -> Batch:
    return Batch(args=images().args, targets=torch.randint(0, 2, (BATCH, 1)).double())


def real_or_fake_vectors() -> Batch:
    return Batch(args=(torch.randn(BATCH, 6),), targets=torch.randint(0, 2, (BATCH, 1)).double())


ALL: Final = (
    Architecture(
        name="cnn",
        make=architectures.cnn,
        batch=images,
        loss=F.nll_loss,
        why="the usual chain: convolution, norm, in-place ReLU, pooling, groups, flatten",
    ),
    Architecture(
        name="residual_cnn",
        make=architectures.ResidualNet,
        batch=images,
        why="functional calls, a raw parameter that broadcasts, view(x.size(0), -1)",
    ),
    Architecture(
        name="densenet",
        make=DenseNet,
        batch=images,
        why="concatenation along channels of a growing list",
    ),
    Architecture(
        name="unet",
        make=UNet,
        batch=segmentation,
        why="transposed convolution, skips, interpolation to another tensor's size, 4-d targets",
    ),
    Architecture(
        name="dilated_conv1d",
        make=dilated_conv1d,
        batch=lambda: series(length=9),
        why="padding by word, circular padding, dilation",
    ),
    Architecture(
        name="conv3d",
        make=conv3d,
        batch=lambda: Batch(args=(torch.randn(BATCH, 2, 3, 6, 7),), targets=images().targets),
        why="five axes before there are slots",
    ),
    Architecture(
        name="tcn_weight_norm",
        make=TCN,
        batch=lambda: series(length=8),
        why="a weight computed from two parameters, slices with negative ends",
    ),
    Architecture(
        name="wavenet",
        make=WaveNet,
        batch=lambda: series(length=8),
        why="gates of tanh and sigmoid, F.pad, F.glu over channels, a sum that starts at 0",
    ),
    Architecture(
        name="style_norms",
        make=StyleNet,
        batch=pictures,
        loss=F.mse_loss,
        why="instance and group norms count channels; one keeps running statistics",
    ),
    Architecture(
        name="super_resolution",
        make=SuperResolution,
        batch=low_and_high_resolution,
        loss=F.mse_loss,
        why="pixel shuffle moves channels into space",
    ),
    Architecture(
        name="spectral_norm_discriminator",
        make=discriminator,
        batch=real_or_fake,
        loss=F.binary_cross_entropy_with_logits,
        why="each training forward moves the power iteration's vectors",
    ),
    Architecture(
        name="old_style_norm_discriminator",
        make=old_discriminator,
        batch=real_or_fake_vectors,
        loss=F.binary_cross_entropy_with_logits,
        why="norms by pre-forward hooks, which leave a computed tensor as a plain attribute",
    ),
)
