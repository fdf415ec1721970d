"""Models whose attention is written in ways of its own, each a function of its width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.hydro_hpc.surrogate.tracing.models import IMAGE, TOKENS


class Repeated(nn.Module):
    """Heads of keys and values that are repeated for several of queries, by torch or by hand."""

    def __init__(self, width, by_hand):
        super().__init__()
        self.size, self.heads, self.shared, self.by_hand = 8, width // 8, width // 16, by_hand
        self.repeats = self.heads // self.shared
        self.tokens, self.q = nn.Embedding(30, width), nn.Linear(width, self.heads * self.size)
        self.k, self.v = (nn.Linear(width, self.shared * self.size) for _ in range(2))
        self.o, self.out = nn.Linear(self.heads * self.size, width), nn.Linear(width, 30)

    def forward(self, tokens):
        x = self.tokens(tokens)
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.size).transpose(1, 2)
        k, v = (f(x).view(b, t, self.shared, self.size).transpose(1, 2) for f in (self.k, self.v))
        if self.by_hand:
            k, v = (torch.repeat_interleave(each, self.repeats, dim=1) for each in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=not self.by_hand)
        return self.out(self.o(y.transpose(1, 2).flatten(2)))


class Relative(nn.Module):
    """Biases of each head that are added to its queries."""

    def __init__(self, width):
        super().__init__()
        self.heads, self.size = width // 8, 8
        self.tokens, self.qkv = nn.Embedding(30, width), nn.Linear(width, 3 * width, bias=False)
        self.places, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.u, self.v = (nn.Parameter(torch.zeros(self.heads, self.size)) for _ in range(2))
        self.out = nn.Linear(width, 30)

    def forward(self, tokens):
        x = self.tokens(tokens)
        b, t, _ = x.shape
        q, k, v = torch.chunk(self.qkv(x), 3, dim=-1)
        q, k, v = (each.view(b, t, self.heads, self.size) for each in (q, k, v))
        r = self.places(x[0]).view(t, self.heads, self.size)
        logits = torch.einsum("bihd,bjhd->bhij", q + self.u, k)
        logits = logits + torch.einsum("bihd,jhd->bhij", q + self.v, r)
        y = torch.einsum("bhij,bjhd->bihd", (logits / 8**0.5).softmax(-1), v)
        return self.out(self.o(y.reshape(b, t, self.heads * self.size)))


class Crossed(nn.Module):
    """Of learned queries to rows by one head whose size is the same at any width."""

    def __init__(self, width):
        super().__init__()
        self.latents, self.heads = nn.Parameter(torch.randn(6, width)), width // 8
        self.q, self.kv, self.o = nn.Linear(width, 8), nn.Linear(12, 16), nn.Linear(8, width)
        self.inner, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, rows):
        x = self.latents[None].expand(len(rows), -1, -1)
        x = x + self.o(self.attended(self.q(self.norm(x)), *self.kv(rows).chunk(2, -1), 1))
        x = x + self.back(self.attended(*self.inner(self.norm(x)).chunk(3, -1), self.heads))
        return self.out(x.mean(1))

    def attended(self, q, k, v, heads):
        b = len(q)
        q, k, v = (each.reshape(b, each.shape[1], heads, -1).transpose(1, 2) for each in (q, k, v))
        weights = (torch.einsum("bhid,bhjd->bhij", q, k) * 8**-0.5).softmax(-1)
        y = torch.einsum("bhij,bhjd->bhid", weights, v).transpose(1, 2)
        return y.reshape(b, y.shape[1], -1)


class Queried(nn.Module):
    """A decoder whose queries are a table, of which nothing is looked up."""

    def __init__(self, width):
        super().__init__()
        self.image, self.queries = nn.Conv2d(3, width, 4, 4), nn.Embedding(6, width)
        self.layers = nn.TransformerDecoderLayer(width, width // 8, 2 * width, batch_first=True)
        self.out = nn.Linear(width, 5)

    def forward(self, x):
        x = self.image(x).flatten(2).transpose(1, 2)
        queries = self.queries.weight.unsqueeze(0).repeat(len(x), 1, 1)
        return self.out(self.layers(queries, x))


ATTENDING = {
    "repeated": (lambda width: Repeated(width, by_hand=True), TOKENS),
    "repeated by torch": (lambda width: Repeated(width, by_hand=False), TOKENS),
    "relative": (Relative, TOKENS),
    "crossed": (Crossed, torch.randn(2, 7, 12)),
    "queried": (Queried, IMAGE),
}
"""By name: a function of the width, and what one forward call takes."""
