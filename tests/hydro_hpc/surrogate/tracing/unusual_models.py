"""Models whose widths are said in ways of their own, each a function of its width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from tests.hydro_hpc.surrogate.tracing.attending_models import ATTENDING
from tests.hydro_hpc.surrogate.tracing.models import IMAGE, PLAIN, ROWS, TOKENS


class SuperResolution(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.up = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        return self.out(F.relu(F.pixel_shuffle(self.up(F.relu(self.a(x))), 2)))


class Standardised(nn.Module):
    """Its convolution's weight is centred before use."""

    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.inner = nn.Parameter(torch.randn(width, width, 3, 3) * 0.1)
        self.out = nn.Linear(width, 10)

    def forward(self, x):
        weight = self.inner - self.inner.mean((1, 2, 3), keepdim=True)
        return self.out(F.relu(F.conv2d(self.stem(x), weight)).mean((2, 3)))


class Modulated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.into = nn.Linear(12, width)
        self.condition = nn.Linear(6, 2 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out = nn.Linear(width, 12)

    def forward(self, x, y):
        scale, shift = self.condition(y).split([self.width, self.width], dim=-1)
        return self.out(self.norm(self.into(x)) * (1 + scale) + shift)


class Experts(nn.Module):
    """Weights of all experts in one parameter."""

    def __init__(self, width):
        super().__init__()
        self.tokens, self.router = nn.Embedding(30, width), nn.Linear(width, 4, bias=False)
        self.up = nn.Parameter(torch.randn(4, width, 2 * width) * width**-0.5)
        self.down = nn.Parameter(torch.randn(4, 2 * width, width) * width**-0.5)
        self.out = nn.Linear(width, 30)

    def forward(self, tokens):
        x = self.tokens(tokens)
        y = torch.einsum(
            "beth,ehd->betd", torch.einsum("btd,edh->beth", x, self.up).relu(), self.down
        )
        return self.out(x + torch.einsum("bte,betd->btd", self.router(x).softmax(-1), y))


class Latents(nn.Module):
    """Learned queries, as many at any width, that a layer takes before any input is there."""

    def __init__(self, width):
        super().__init__()
        self.latents, self.heads = nn.Parameter(torch.randn(6, width) * 0.02), width // 8
        self.q, self.kv = nn.Linear(width, width), nn.Linear(12, 2 * width)
        self.o, self.out = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, x):
        latents = self.latents.unsqueeze(0).repeat(len(x), 1, 1)
        parts = (self.q(latents), *self.kv(x).chunk(2, -1))
        q, k, v = (
            part.reshape(len(x), part.shape[1], self.heads, -1).transpose(1, 2) for part in parts
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(latents.shape)
        return self.out((latents + self.o(y)).mean(1))


class Gates(nn.Module):
    """A depthwise convolution of half of what a layer gives."""

    def __init__(self, width):
        super().__init__()
        self.inner = 2 * width
        self.tokens, self.into = nn.Embedding(30, width), nn.Linear(width, 2 * self.inner)
        self.conv = nn.Conv1d(self.inner, self.inner, 4, groups=self.inner, padding=3)
        self.back, self.out = nn.Linear(self.inner, width), nn.Linear(width, 30)

    def forward(self, tokens):
        x, gate = self.into(self.tokens(tokens)).chunk(2, -1)
        x = self.conv(x.transpose(1, 2))[:, :, : tokens.shape[1]].transpose(1, 2)
        return self.out(self.back(F.silu(x) * F.silu(gate)))


class Translator(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.tokens, self.out = nn.Embedding(30, width), nn.Linear(width, 30)
        self.layers = nn.Transformer(width, width // 8, 1, 1, 2 * width, batch_first=True)

    def forward(self, source, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.out(self.layers(self.tokens(source), self.tokens(tokens), tgt_mask=mask))


class Cells(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.tokens = width, nn.Embedding(30, width)
        self.gru, self.lstm = nn.GRUCell(width, width), nn.LSTMCell(width, width)
        self.out = nn.Linear(width, 30)

    def forward(self, tokens):
        h = c = y = torch.zeros(len(tokens), self.width)
        for x in self.tokens(tokens).unbind(1):
            y = self.gru(x, y)
            h, c = self.lstm(y, (h, c))
        return self.out(h)


class Projected(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.tokens, self.out = nn.Embedding(30, width), nn.Linear(width, 30)
        self.lstm = nn.LSTM(width, 4 * width, 2, proj_size=width, batch_first=True)

    def forward(self, tokens):
        return self.out(self.lstm(self.tokens(tokens))[0])


class Cached(nn.Module):
    """It keeps tables from call to call, made when they are first needed."""

    def __init__(self, width):
        super().__init__()
        self.tokens, self.inner = nn.Embedding(30, width), nn.Linear(width, width)
        self.out, self.shift = nn.Linear(width, 30), None

    def forward(self, tokens):
        x = self.tokens(tokens)
        if self.shift is None:
            self.shift = torch.zeros(64, x.shape[-1])
            self.register_buffer("scale", torch.ones(64, x.shape[-1]), persistent=False)
        n = tokens.shape[1]
        return self.out(F.relu(self.inner(x * self.scale[:n] + self.shift[:n])))


class Listed(nn.Module):
    """Its widths are in a list and in a dict."""

    def __init__(self, width):
        super().__init__()
        self.widths, self.settings = [width, 2 * width], {"width": width, "name": "listed"}
        self.a, self.b = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 3)
        self.out = nn.Linear(2 * width, 5)

    def forward(self, x):
        x = F.relu(self.a(x)).view(len(x), self.settings["width"], 6, 6)
        return self.out(self.b(x).view(len(x), self.widths[1], -1).mean(-1))


class Normed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Linear(12, width))
        self.b = parametrizations.weight_norm(nn.Linear(width, width))
        self.out = nn.Linear(width, 3)

    def forward(self, x):
        return self.out(F.relu(self.b(F.relu(self.a(x)))))


class Dropped(nn.Module):
    """Layers are left out at random while it trains."""

    def __init__(self, width):
        super().__init__()
        self.into, self.inner = nn.Linear(12, width), nn.Linear(width, width)
        self.out = nn.Linear(width, 3)

    def forward(self, x):
        x = self.into(x)
        if not self.training or torch.rand(1).item() < 0.9:
            x = x + self.inner(x).relu()
        return self.out(x)


class Named(nn.Module):
    """Called by names."""

    def __init__(self, width):
        super().__init__()
        self.tokens, self.inner = nn.Embedding(30, width), nn.Linear(width, width)
        self.out = nn.Linear(width, 30)

    def forward(self, *, input_ids, labels=None):
        logits = self.out(F.relu(self.inner(self.tokens(input_ids))))
        if labels is None:
            return {"logits": logits}
        return {"logits": logits, "loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten())}


class Detector(nn.Module):
    """Positions of which each is half of a row's and half of a column's."""

    def __init__(self, width):
        super().__init__()
        self.image, self.inner = nn.Conv2d(3, width, 4, 4), nn.Linear(width, width)
        self.rows, self.columns = (nn.Parameter(torch.rand(9, width // 2)) for _ in range(2))
        self.out = nn.Linear(width, 6)

    def forward(self, x):
        x = self.image(x)
        rows, columns = x.shape[-2:]
        across = self.columns[:columns].unsqueeze(0).repeat(rows, 1, 1)
        down = self.rows[:rows].unsqueeze(1).repeat(1, columns, 1)
        places = torch.cat([across, down], dim=-1).flatten(0, 1).unsqueeze(1)
        return self.out(self.inner(places + 0.1 * x.flatten(2).permute(2, 0, 1)))


class Grouped(nn.Module):
    """Fewer heads of keys and values than of queries, each of them repeated."""

    def __init__(self, width):
        super().__init__()
        self.heads, self.shared, self.size = width // 8, width // 16, 8
        self.repeats = self.heads // self.shared
        self.tokens = nn.Embedding(30, width)
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, self.shared * 8)
        self.o, self.out = nn.Linear(width, width), nn.Linear(width, 30)

    def forward(self, tokens):
        x = self.tokens(tokens)
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.k(x).view(b, t, self.shared, self.size).transpose(1, 2)
        k = k[:, :, None].expand(b, self.shared, self.repeats, t, self.size)
        k = k.reshape(b, self.heads, t, self.size)
        y = F.scaled_dot_product_attention(q, k, k).transpose(1, 2)
        return self.out(self.o(y.contiguous().view(b, t, -1)))


class Biased(nn.Module):
    """Heads whose count and whole size are kept beside their own, which is said twice."""

    def __init__(self, width):
        super().__init__()
        self.heads, self.size, self.inner = width // 8, 8, width // 8 * 8
        self.tokens = nn.Embedding(30, width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.out = nn.Linear(width, 30)

    def forward(self, tokens):
        x = self.tokens(tokens)
        parts = (f(x) for f in (self.q, self.k, self.v))
        q, k, v = (z.view(len(x), -1, self.heads, self.size).transpose(1, 2) for z in parts)
        y = torch.matmul(torch.matmul(q, k.transpose(3, 2)).softmax(-1), v)
        return self.out(self.o(y.transpose(1, 2).contiguous().view(len(x), -1, self.inner)))


class Upsampled(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3)
        self.c, self.out = nn.Conv2d(3 * width, width, 3), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = self.a(x)
        y = F.pad(F.max_pool2d(self.b(x), 2), [0, 1, 0, 1])
        y = F.interpolate(y, scale_factor=2, mode="bilinear")
        return self.out(self.c(torch.cat([x, y], 1)))


class Scaled(nn.Module):
    """Gains whose result is normed, turned and averaged."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3, groups=width)
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.scale, self.out = nn.Parameter(torch.full((width,), 0.1)), nn.Linear(width, 3)

    def forward(self, x):
        x = self.a(x)
        x = self.gain[:, None, None] * (x - x.mean(1, keepdim=True))
        x = x / x.mean(1, keepdim=True).abs().add(1.0) + self.shift[:, None, None]
        return self.out(
            (self.scale * self.b(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).mean((2, 3))
        )


class Graph(nn.Module):
    """Attention by a vector for each of as many heads at any width."""

    def __init__(self, width):
        super().__init__()
        self.heads, self.into = 4, nn.Linear(12, width, bias=False)
        self.source, self.sink = (nn.Parameter(torch.randn(1, 4, width // 4)) for _ in range(2))
        self.out = nn.Linear(width, 3)

    def forward(self, x):
        x = self.into(x).view(x.shape[0], self.heads, -1)
        logits = (x * self.source).sum(-1)[:, None] + (x * self.sink).sum(-1)[None]
        return self.out(torch.einsum("ijh,jhd->ihd", logits.softmax(1), x).flatten(1))


UNUSUAL = {
    "graph": (Graph, ROWS),
    "grouped": (Grouped, TOKENS),
    "biased": (Biased, TOKENS),
    "upsampled": (Upsampled, IMAGE),
    "scaled": (Scaled, IMAGE),
    "detector": (Detector, IMAGE),
    "super resolution": (SuperResolution, IMAGE),
    "standardised": (Standardised, IMAGE),
    "modulated": (Modulated, (ROWS, torch.randn(4, 6))),
    "experts": (Experts, TOKENS),
    "latents": (Latents, torch.randn(2, 5, 12)),
    "gates": (Gates, TOKENS),
    "translator": (Translator, (TOKENS, TOKENS)),
    "cells": (Cells, TOKENS),
    "projected": (Projected, TOKENS),
    "cached": (Cached, TOKENS),
    "listed": (Listed, IMAGE),
    "normed": (Normed, ROWS),
    "dropped": (Dropped, ROWS),
    "named": (Named, {"input_ids": TOKENS, "labels": TOKENS}),
}
MODELS = PLAIN | UNUSUAL | ATTENDING
"""By name: a function of the width, and what one forward call takes."""
