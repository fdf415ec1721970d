"""Models as others write them, for us and for mup alike, each with what one call takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.hydro_hpc.surrogate.oracle_models import Readout

IMAGE, TOKENS = torch.randn(2, 3, 8, 8), torch.randint(0, 30, (2, 7))


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.eps, self.weight = 1e-6, nn.Parameter(torch.ones(dim))

    def _norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        return self._norm(x.float()).type_as(x) * self.weight


class GroupedAttention(nn.Module):
    def __init__(self, dim, n_heads, n_kv_heads):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.n_rep = n_heads, n_kv_heads, n_heads // n_kv_heads
        self.head_dim = dim // n_heads
        self.wq = nn.Linear(dim, n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(n_heads * self.head_dim, dim, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.turned(self.wq(x).view(b, t, self.n_heads, self.head_dim), cos, sin)
        k = self.turned(self.wk(x).view(b, t, self.n_kv_heads, self.head_dim), cos, sin)
        v = self.wv(x).view(b, t, self.n_kv_heads, self.head_dim)
        k, v = (self.repeated(each, b, t) for each in (k, v))
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.wo(y.transpose(1, 2).contiguous().view(b, t, -1))

    def turned(self, x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def repeated(self, x, b, t):
        x = x[:, :, :, None].expand(b, t, self.n_kv_heads, self.n_rep, self.head_dim)
        return x.reshape(b, t, self.n_heads, self.head_dim)


class Llama(nn.Module):
    """Rotated queries and keys, grouped heads, gated layers, norms without shifts."""

    def __init__(self, width: int, readout: Readout):
        super().__init__()
        self.tokens = nn.Embedding(30, width)
        self.attention = GroupedAttention(width, width // 16, width // 32)
        self.n1, self.n2, self.norm = RMSNorm(width), RMSNorm(width), RMSNorm(width)
        self.w1, self.w3 = (nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.w2 = nn.Linear(3 * width, width, bias=False)
        self.output = readout(width, 30, bias=False)
        angles = torch.outer(torch.arange(9.0), 1e4 ** (-torch.arange(0, 16, 2) / 16))
        angles = torch.cat([angles, angles], -1)[:, None]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens):
        x, t = self.tokens(tokens), tokens.shape[1]
        x = x + self.attention(self.n1(x), self.cos[:t], self.sin[:t])
        y = self.n2(x)
        x = x + self.w2(F.silu(self.w1(y)) * self.w3(y))
        return self.output(self.norm(x))


class ChannelNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXt(nn.Module):
    def __init__(self, width: int, readout: Readout):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 2, 2), ChannelNorm(width))
        self.down = nn.Sequential(ChannelNorm(width), nn.Conv2d(width, 2 * width, 2, 2))
        self.dwconv = nn.Conv2d(2 * width, 2 * width, 7, padding=3, groups=2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.up, self.back = nn.Linear(2 * width, 8 * width), nn.Linear(8 * width, 2 * width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(2 * width))
        self.head = readout(2 * width, 10)

    def forward(self, x):
        x = self.down(self.stem(x))
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.back(F.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(x.mean([-2, -1]))


class DenseNet(nn.Module):
    def __init__(self, width: int, readout: Readout):
        super().__init__()
        grow = width // 2
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width + i * grow) for i in range(2))
        self.layers = nn.ModuleList(
            nn.Conv2d(width + i * grow, grow, 3, padding=1, bias=False) for i in range(2)
        )
        self.transition = nn.Conv2d(2 * width, width, 1, bias=False)
        self.classifier = readout(width, 10)

    def forward(self, x):
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, 1)))))
        x = F.avg_pool2d(self.transition(torch.cat(features, 1)), 2)
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


class CrossAttention(nn.Module):
    """Of tokens to an image's rows of another size."""

    def __init__(self, width: int, readout: Readout):
        super().__init__()
        self.tokens, self.rows = nn.Embedding(30, width), nn.Linear(12, width // 2)
        self.attention = nn.MultiheadAttention(
            width, width // 16, kdim=width // 2, vdim=width // 2, batch_first=True
        )
        self.norm, self.out = nn.LayerNorm(width), readout(width, 5)

    def forward(self, tokens, rows):
        x, rows = self.tokens(tokens), self.rows(rows)
        y, _ = self.attention(x, rows, rows, need_weights=False)
        return self.out(self.norm(x + y).mean(1))


WRITTEN = {
    "llama": (Llama, TOKENS),
    "convnext": (ConvNeXt, IMAGE),
    "densenet": (DenseNet, IMAGE),
    "cross attention": (CrossAttention, (TOKENS, torch.randn(2, 5, 12))),
}
