"""What `benchmarks/transfer.py` trains: models at several widths, each with its data.

Every batch is new to a model (digits are shifted and noisy, texts are long), so that the loss on
the validation set says how well a learning rate trains, and not how well a width remembers. Digits
are as noisy as they are bright: with less noise a few of the validation set's images make most of
its loss, and losses of rates a factor of 4 apart are nearly tied.

Shapes: B rows of a batch, T bytes of a text, D width, H heads, V = 256 byte values.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VALIDATION_DIGITS: Final = 500  # of 1797
DIGITS_NOISE: Final = 1.0  # standard deviation, in those of all pixels
VOCABULARY: Final = 256
TEXT_BYTES: Final = 4_000_000
PIECE_BYTES: Final = 4_000  # of each ten pieces of the text, one is for validation
SEQ: Final = 16
HEAD_SIZE: Final = 16

Batch = tuple[Tensor, Tensor]  # inputs, and the classes that a model is to say


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A target, the widths of its surrogates, and what they are trained on.

    `factory(width=, init_scale=)` builds the target without `width`. `batch(rows, generator)` is
    new each time; `validation` is called once per process.
    """

    name: str
    factory: Callable[..., nn.Module]
    optimizer: str
    target: int
    widths: tuple[int, ...]
    lrs: tuple[float, ...]  # a factor of 2 apart
    batch_size: int
    steps: int
    ranked_steps: int  # of configurations whose ranks are compared: many, so shorter trainings
    is_ranked: bool  # whether they are, if nobody asks for more
    batch: Callable[[int, torch.Generator], Batch]
    validation: Callable[[], Batch]


class MLP(nn.Module):
    """pixels [B, 64] -> logits [B, 10]. `init_scale` multiplies the drawn weights."""

    def __init__(self, width: int = 512, init_scale: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.out = nn.Linear(width, 10)
        begin(self, init_scale)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.out(self.layers(pixels))
        return logits


class Block(nn.Module):
    """x_BTD -> x_BTD: causal attention, then a multilayer perceptron, each normalised first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attend(self.attention_norm(x_BTD))
        y_BTD: Tensor = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BTD))))
        return x_BTD + y_BTD

    def attend(self, x_BTD: Tensor) -> Tensor:
        batch, seq, width = x_BTD.shape
        qkv = self.qkv(x_BTD).view(batch, seq, 3, width // HEAD_SIZE, HEAD_SIZE)
        q_BHTd, k_BHTd, v_BHTd = qkv.permute(2, 0, 3, 1, 4)
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, is_causal=True)
        y_BTD: Tensor = self.attention_out(y_BHTd.transpose(1, 2).reshape(batch, seq, width))
        return y_BTD


class GPT(nn.Module):
    """bytes_BT -> logits_BVT, as `cross_entropy` takes them. More heads are more width. One block,
    so that enough steps fit the time: with few, the losses of two seeds differ more than those of
    two rates.
    """

    def __init__(self, width: int = 256, init_scale: float = 1.0) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(SEQ, width)
        self.block = Block(width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, VOCABULARY, bias=False)
        nn.init.normal_(self.position.weight, std=0.1)  # a token matters more than its place
        begin(self, init_scale)

    def forward(self, bytes_BT: Tensor) -> Tensor:
        x_BTD = self.token(bytes_BT) + self.position(torch.arange(bytes_BT.size(1)))
        logits_BTV: Tensor = self.out(self.norm(self.block(x_BTD)))
        return logits_BTV.transpose(1, 2)


@torch.no_grad()
def begin(model: MLP | GPT, init_scale: float) -> None:
    """Scales what was drawn; the readout begins at zero, as is usual for models to be scaled."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(init_scale)
    nn.init.zeros_(model.out.weight)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 8, 8] of one variance, and classes, in an order of their own."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(bunch.images, dtype=torch.float32)[order]
    return (images - images.mean()) / images.std(), torch.tensor(bunch.target)[order]


def digits_batch(rows: int, generator: torch.Generator) -> Batch:
    images, classes = digits()
    chosen = torch.randint(len(images) - VALIDATION_DIGITS, (rows,), generator=generator)
    return disturbed(images[chosen], generator), classes[chosen]


def validation_digits() -> Batch:
    """Each image that is trained on by nobody, with four disturbances."""
    images, classes = digits()
    images, classes = images[-VALIDATION_DIGITS:].repeat(4, 1, 1), classes[-VALIDATION_DIGITS:]
    return disturbed(images, torch.Generator().manual_seed(0)), classes.repeat(4)


def disturbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels [rows, 64]: each image shifted by at most one pixel each way, with noise."""
    padded = F.pad(images, (1, 1, 1, 1), value=float(images.min()))
    windows = padded.unfold(1, 8, 1).unfold(2, 8, 1)  # [rows, 3, 3, 8, 8]
    down, right = torch.randint(3, (2, len(images)), generator=generator)
    shifted = windows[torch.arange(len(images)), down, right].flatten(1)
    return shifted + DIGITS_NOISE * torch.randn(shifted.shape, generator=generator)


@cache
def text() -> Tensor:
    """The first bytes of the standard library's source, files in sorted order, without tables of
    codes and documentation, as whole tens of pieces [tens, 10, PIECE_BYTES].
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
    skipped |= {"encodings", "pydoc_data"}
    found = bytearray()
    for path in sorted(root.rglob("*.py")):
        if len(found) >= TEXT_BYTES:
            break
        if not skipped.intersection(path.relative_to(root).parts):
            found += path.read_bytes()
    tens = min(len(found), TEXT_BYTES) // (10 * PIECE_BYTES)
    bytes_N = torch.frombuffer(found, dtype=torch.uint8)[: tens * 10 * PIECE_BYTES]
    return bytes_N.view(-1, 10, PIECE_BYTES)


def text_batch(rows: int, generator: torch.Generator) -> Batch:
    return windows_of(text()[:, 1:].flatten(0, 1), rows, generator)


def validation_text() -> Batch:
    return windows_of(text()[:, 0], 256, torch.Generator().manual_seed(0))


def windows_of(pieces: Tensor, rows: int, generator: torch.Generator) -> Batch:
    chosen_B1 = torch.randint(len(pieces), (rows, 1), generator=generator)
    starts_B1 = torch.randint(PIECE_BYTES - SEQ, (rows, 1), generator=generator)
    window = pieces[chosen_B1, starts_B1 + torch.arange(SEQ + 1)].long()
    return window[:, :-1], window[:, 1:]


def powers(first: int, last: int) -> tuple[float, ...]:
    return tuple(2.0**power for power in range(first, last + 1))


TASKS: Final = (
    Task(
        name="mlp, adam",
        factory=MLP,
        optimizer="adam",
        target=512,
        widths=(32, 64, 128, 256),
        lrs=powers(-11, -3),
        batch_size=512,
        steps=400,
        ranked_steps=128,
        is_ranked=True,
        batch=digits_batch,
        validation=validation_digits,
    ),
    Task(
        name="gpt, adamw",
        factory=GPT,
        optimizer="adamw",
        target=256,
        widths=(32, 64, 128),
        lrs=powers(-13, -5),
        batch_size=16,
        steps=224,
        ranked_steps=128,
        is_ranked=False,
        batch=text_batch,
        validation=validation_text,
    ),
)

MORE_TASKS: Final = (
    Task(
        name="mlp, sgd",
        factory=MLP,
        optimizer="sgd",
        target=512,
        widths=(32, 64, 128, 256),
        lrs=powers(-7, 2),
        batch_size=128,
        steps=200,
        ranked_steps=200,
        is_ranked=True,
        batch=digits_batch,
        validation=validation_digits,
    ),
)
