"""The GPT that `train.py` trains and `study.py` tunes: its layers, its loss, its text.

Shapes: B sequences of a microbatch, T bytes of a sequence, D width, H heads, V = 256 byte values.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY = 256
TEXT_BYTES = 4_000_000
HEAD_SIZE = 32
SKIPPED_DIRECTORIES = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


class Embedding(nn.Module):
    """tokens_BT -> x_BTD: byte and position embeddings."""

    def __init__(self, width: int, seq: int, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(seq, width)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD: torch.Tensor = self.token(tokens_BT) + self.position(positions_T)
        return x_BTD


class Block(nn.Module):
    """x_BTD -> x_BTD: causal attention, then a multilayer perceptron, each normalised first."""

    def __init__(self, width: int, heads: int, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + self.attend(self.attention_norm(x_BTD))
        y_BTD: torch.Tensor = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BTD))))
        return x_BTD + y_BTD

    def attend(self, x_BTD: torch.Tensor) -> torch.Tensor:
        batch, seq, width = x_BTD.shape
        qkv = self.qkv(x_BTD).view(batch, seq, 3, self.heads, width // self.heads)
        q_BHTd, k_BHTd, v_BHTd = qkv.permute(2, 0, 3, 1, 4)
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, is_causal=True)
        y_BTD: torch.Tensor = self.attention_out(y_BHTd.transpose(1, 2).reshape(batch, seq, width))
        return y_BTD


class Head(nn.Module):
    """x_BTD -> logits_BTV. Its weight is its own, not the embedding's."""

    def __init__(self, width: int, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        logits_BTV: torch.Tensor = self.out(self.norm(x_BTD))
        return logits_BTV


def loss_fn(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def layers(
    *, width: int, num_blocks: int, seq: int, seed: int
) -> list[tuple[type[nn.Module], tuple[int, ...]]]:
    """The classes of all layers, each with its arguments. Every layer draws its weights from its
    own seed, so that they do not depend on which layers are built where.
    """
    heads = max(1, width // HEAD_SIZE)
    blocks = [(Block, (width, heads, seed + 1 + i)) for i in range(num_blocks)]
    return [(Embedding, (width, seq, seed)), *blocks, (Head, (width, seed + 1 + num_blocks))]


def read_text() -> torch.Tensor:
    """Returns the first TEXT_BYTES of the standard library's source, files in sorted order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    chunks: list[bytes] = []
    size = 0
    for path in sorted(root.rglob("*.py")):
        if size >= TEXT_BYTES:
            break
        if not SKIPPED_DIRECTORIES.intersection(path.relative_to(root).parts):
            chunks.append(path.read_bytes())
            size += len(chunks[-1])
    return torch.frombuffer(bytearray(b"".join(chunks)[:TEXT_BYTES]), dtype=torch.uint8)


def window_at(
    text: torch.Tensor, starts_B1: torch.Tensor, seq: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (tokens_BT, targets_BT): the bytes from each start on, and those that follow them."""
    window = text[starts_B1 + torch.arange(seq + 1)].long()
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()
