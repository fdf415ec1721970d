"""Models in the forms in which people write them, each a function of its width."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 2 * width)
        )
        self.out = nn.Linear(2 * width, 5)

    def forward(self, x):
        return F.log_softmax(self.out(self.layers(x)), dim=1)


class ConvNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.b = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width * 16, 4 * width)
        self.out = nn.Linear(4 * width, 7)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.relu(self.norm(self.b(x)))
        return self.out(F.relu(self.fc(x.view(x.size(0), -1))))


class Bottleneck(nn.Module):
    def __init__(self, into, planes, stride, groups=1):
        super().__init__()
        out = 4 * planes
        self.a = nn.Conv2d(into, planes, 1, bias=False)
        self.na = nn.BatchNorm2d(planes)
        self.b = nn.Conv2d(planes, planes, 3, stride, 1, bias=False, groups=groups)
        self.nb = nn.BatchNorm2d(planes)
        self.c = nn.Conv2d(planes, out, 1, bias=False)
        self.nc = nn.BatchNorm2d(out)
        self.down = None
        if into != out or stride != 1:
            self.down = nn.Sequential(
                nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = F.relu(self.na(self.a(x)))
        y = F.relu(self.nb(self.b(y)))
        y = self.nc(self.c(y))
        return F.relu(y + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    def __init__(self, width, groups=1):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.one = Bottleneck(width, width, 1, groups)
        self.two = Bottleneck(4 * width, 2 * width, 2, groups)
        self.out = nn.Linear(8 * width, 10)

    def forward(self, x):
        x = self.two(self.one(F.relu(self.norm(self.stem(x)))))
        return self.out(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def resnext(width):
    return ResNet(width, groups=4)


class DenseNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.grow = nn.ModuleList(
            nn.Conv2d(width + i * (width // 2), width // 2, 3, padding=1) for i in range(3)
        )
        self.out = nn.Linear(width + 3 * (width // 2), 10)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.grow:
            x = torch.cat([x, F.relu(layer(x))], dim=1)
        return self.out(x.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Conv2d(1, width, 3, padding=1)
        self.b = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.c = nn.Conv2d(2 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        a = F.relu(self.a(x))
        up = self.up(F.relu(self.b(a)))
        return self.out(F.relu(self.c(torch.cat([a, up], 1))))


class MobileBlock(nn.Module):
    def __init__(self, width, expand=4):
        super().__init__()
        inner = width * expand
        self.a = nn.Conv2d(width, inner, 1)
        self.b = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.squeeze = nn.Linear(inner, inner // 4)
        self.excite = nn.Linear(inner // 4, inner)
        self.c = nn.Conv2d(inner, width, 1)

    def forward(self, x):
        y = F.silu(self.b(F.silu(self.a(x))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return x + self.c(y * gate[:, :, None, None])


class MobileNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.blocks = nn.Sequential(MobileBlock(width), MobileBlock(width))
        self.norm = nn.GroupNorm(4, width)
        self.out = nn.Linear(width, 10)

    def forward(self, x):
        return self.out(self.norm(self.blocks(self.stem(x))).mean((2, 3)))


class FusedAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        batch, seq, width = x.shape
        qkv = self.qkv(x).view(batch, seq, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, seq, width))


class ConfiguredAttention(nn.Module):
    """As in minimal GPTs: a settings object, queries, keys and values split, a mask in a buffer."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        mask = torch.tril(torch.ones(config.block_size, config.block_size))
        self.register_buffer("mask", mask.view(1, 1, config.block_size, config.block_size))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.config.n_embd, dim=2)
        n = self.config.n_head
        q = q.view(B, T, n, C // n).transpose(1, 2)
        k = k.view(B, T, n, C // n).transpose(1, 2)
        v = v.view(B, T, n, C // n).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class SeparateAttention(nn.Module):
    def __init__(self, width, head_size):
        super().__init__()
        self.head_size = head_size
        self.scale = head_size**-0.5
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.o = nn.Linear(width, width)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (f(x).view(B, T, -1, self.head_size) for f in (self.q, self.k, self.v))
        weights = torch.einsum("bthd,bshd->bhts", q, k) * self.scale
        y = torch.einsum("bhts,bshd->bthd", weights.softmax(-1), v)
        return self.o(y.flatten(2))


class Block(nn.Module):
    def __init__(self, width, attention):
        super().__init__()
        self.n1 = nn.LayerNorm(width)
        self.attention = attention
        self.n2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        x = x + self.attention(self.n1(x))
        return x + self.mlp(self.n2(x))


class GPT(nn.Module):
    def __init__(self, width, attention, tied=False):
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.places = nn.Embedding(16, width)
        self.blocks = nn.ModuleList(Block(width, attention(width)) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 50, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def gpt(width):
    return GPT(width, lambda w: FusedAttention(w, w // 8))


def tied_gpt(width):
    return GPT(width, lambda w: FusedAttention(w, w // 8), tied=True)


def configured_gpt(width):
    config = SimpleNamespace(n_embd=width, n_head=width // 8, block_size=16)
    return GPT(width, lambda _: ConfiguredAttention(config))


def separate_gpt(width):
    return GPT(width, lambda w: SeparateAttention(w, 8))


class MultiheadGPT(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.attention = nn.MultiheadAttention(width, width // 8, batch_first=True)
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, 50)

    def forward(self, tokens):
        x = self.tokens(tokens)
        y, _ = self.attention(x, x, x)
        return self.head(self.norm(x + y))


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        layer = nn.TransformerEncoderLayer(width, width // 8, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, 50)

    def forward(self, tokens):
        return self.head(self.encoder(self.tokens(tokens)).mean(1))


class ViT(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, 5, width) * 0.02)
        self.block = Block(width, FusedAttention(width, width // 8))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.places
        return self.head(self.block(x)[:, 0])


class Recurrent(nn.Module):
    def __init__(self, width, kind, **options):
        super().__init__()
        self.tokens = nn.Embedding(30, width)
        self.cells = kind(width, 2 * width, 2, batch_first=True, **options)
        self.out = nn.Linear(2 * width * (2 if options.get("bidirectional") else 1), 30)

    def forward(self, tokens):
        return self.out(self.cells(self.tokens(tokens))[0])


def lstm(width):
    return Recurrent(width, nn.LSTM)


def gru(width):
    return Recurrent(width, nn.GRU, bidirectional=True)


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.into = nn.Linear(12, width)
        self.gates = nn.Linear(width, 6 * width)
        self.back = nn.Linear(3 * width, width)
        self.slope = nn.PReLU(width)
        self.out = nn.Linear(width, 3)

    def forward(self, x):
        x = self.into(x)
        a, b = self.gates(x).chunk(2, dim=-1)
        return self.out(self.slope(x + self.back(F.silu(a) * b)))


class Raw(nn.Module):
    """Raw parameters in products, one with (in, out) axes; a readout that is no layer."""

    def __init__(self, width):
        super().__init__()
        self.into = nn.Parameter(torch.randn(12, width) * 0.3)
        self.bias = nn.Parameter(torch.zeros(width))
        self.hidden = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.head = nn.Parameter(torch.randn(width, 5) / math.sqrt(width))

    def forward(self, x):
        x = torch.tanh(x @ self.into + self.bias)
        return torch.tanh(x @ self.hidden) @ self.head


class TwoInputs(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.image = nn.Linear(12, width)
        self.text = nn.EmbeddingBag(20, 2 * width)
        self.both = nn.Linear(3 * width, width)
        self.value = nn.Linear(width, 1)
        self.policy = nn.Linear(width, 4)

    def forward(self, image, text):
        x = torch.cat([self.image(image), self.text(text)], dim=-1)
        x = F.relu(self.both(x))
        return self.policy(x), self.value(x).squeeze(-1)


class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.tokens = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(width)
        self.channels = nn.Linear(width, width)
        self.out = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2)
        x = x + self.tokens(x)
        x = x.transpose(1, 2)
        return self.out((x + self.channels(self.norm(x))).mean(1))


IMAGE = torch.randn(2, 3, 8, 8)
TOKENS = torch.randint(0, 30, (2, 10))
ROWS = torch.randn(4, 12)

PLAIN = {
    "mlp": (MLP, torch.randn(4, 3, 4)),
    "convnet": (ConvNet, IMAGE),
    "resnet": (ResNet, IMAGE),
    "resnext": (resnext, IMAGE),
    "densenet": (DenseNet, IMAGE),
    "unet": (UNet, torch.randn(2, 1, 8, 8)),
    "mobilenet": (MobileNet, IMAGE),
    "gpt": (gpt, TOKENS),
    "tied gpt": (tied_gpt, TOKENS),
    "configured gpt": (configured_gpt, TOKENS),
    "separate gpt": (separate_gpt, TOKENS),
    "multihead": (MultiheadGPT, TOKENS),
    "encoder": (Encoder, TOKENS),
    "vit": (ViT, IMAGE),
    "lstm": (lstm, TOKENS),
    "gru": (gru, TOKENS),
    "gated": (Gated, ROWS),
    "raw": (Raw, ROWS),
    "two inputs": (TwoInputs, (ROWS, torch.randint(0, 20, (4, 3)))),
    "mixer": (Mixer, IMAGE),
}
"""By name: a function of the width, and what one forward call takes."""
