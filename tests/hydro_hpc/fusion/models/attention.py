"""Transformers: written by hand, and torch's own."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hydro_hpc.fusion import architectures
from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    Architecture,
    Batch,
    classes,
    images,
    next_tokens,
    own_loss,
    token_loss,
    tokens,
)

WIDTH: Final = 8
HEADS: Final = 2
VOCABULARY: Final = 11


class CausalSelfAttention(nn.Module):
    """As nanoGPT writes it; `flash` chooses torch's attention, else the mask is a buffer."""

    def __init__(self, flash: bool, block_size: int = 9, dropout: float = 0.1) -> None:
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = nn.Linear(WIDTH, WIDTH)
        self.attn_dropout, self.resid_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.n_head, self.n_embd, self.dropout, self.flash = HEADS, WIDTH, dropout, flash
        mask = torch.tril(torch.ones(block_size, block_size)).view(1, 1, block_size, block_size)
        self.register_buffer("bias", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        if self.flash:
            y = F.scaled_dot_product_attention(
                q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True
            )
        else:
            att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
            att = F.softmax(att, dim=-1)
            y = self.attn_dropout(att) @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_fc, self.gelu = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU()
        self.c_proj, self.dropout = nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))


class Block(nn.Module):
    def __init__(self, flash: bool) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(WIDTH), CausalSelfAttention(flash)
        self.ln_2, self.mlp = nn.LayerNorm(WIDTH, bias=False), MLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, flash: bool, block_size: int = 9) -> None:
        super().__init__()
        self.block_size = block_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(VOCABULARY, WIDTH),
                "wpe": nn.Embedding(block_size, WIDTH),
                "drop": nn.Dropout(0.1),
                "h": nn.ModuleList([Block(flash) for _ in range(2 if flash else 1)]),
                "ln_f": nn.LayerNorm(WIDTH),
            }
        )
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        self.apply(self._init_weights)
        for pn, p in self.named_parameters():
            if pn.endswith("c_proj.weight"):
                torch.nn.init.normal_(p, mean=0.0, std=0.02 / math.sqrt(4))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            torch.nn.init.normal_(module.weight, mean=0.0, std=0.2)
        if isinstance(module, nn.Linear) and module.bias is not None:
            torch.nn.init.zeros_(module.bias)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        _, t = idx.size()
        assert t <= self.block_size, f"cannot forward a sequence of length {t}"
        pos = torch.arange(0, t, dtype=torch.long, device=idx.device)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(pos))
        for block in self.transformer.h:
            x = block(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        if targets is None:
            return logits[:, [-1], :], None
        flat = logits.view(-1, logits.size(-1))
        return logits, F.cross_entropy(flat, targets.view(-1), ignore_index=-1)


def text_with_targets() -> Batch:
    both = next_tokens(VOCABULARY)
    return Batch(args=(*both.args, both.targets))


class SharedLayers(nn.Module):
    """One block under two paths, as ALBERT shares it, and another path into it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, block = nn.Embedding(VOCABULARY, WIDTH), Block(flash=False)
        self.layers = nn.ModuleList([block] * 2)
        self.last_mlp = block.mlp
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.last_mlp(x).mean(1))


class ViT(nn.Module):
    def __init__(self, patch: int = 3, image: int = 6) -> None:
        super().__init__()
        self.patch = patch
        num = (image // patch) ** 2
        self.embed = nn.Linear(2 * patch * patch, WIDTH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, num + 1, WIDTH) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def attend(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = torch.einsum("bhid,bhjd->bhij", q, k) * (C // HEADS) ** -0.5
        out = torch.einsum("bhij,bhjd->bhid", attn.softmax(dim=-1), v)
        return self.proj(out.permute(0, 2, 1, 3).reshape(B, N, C))

    def forward(self, img: Tensor) -> Tensor:
        B, C, H, W = img.shape
        p = self.patch
        x = img.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 3, 5, 1)
        x = self.embed(x.reshape(B, (H // p) * (W // p), p * p * C))
        x = torch.cat((self.cls_token.expand(B, -1, -1), x), dim=1) + self.pos_embed
        x = x + self.attend(self.norm1(x))
        return self.head(self.norm2(x)[:, 0])


class EncoderClassifier(nn.Module):
    """nn.TransformerEncoder behind a sinusoidal table, with a padding mask from the tokens."""

    def __init__(self, length: int = 7) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        position = torch.arange(length).unsqueeze(1)
        rate = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
        table = torch.zeros(length, WIDTH)
        table[:, 0::2], table[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
        self.register_buffer("pe", table)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, src: Tensor) -> Tensor:
        padding = src == 0
        x = self.embed(src) * math.sqrt(WIDTH) + self.pe[: src.size(1)]
        x = self.encoder(x, src_key_padding_mask=padding)
        keep = (~padding).unsqueeze(-1)
        return self.head((x * keep).sum(1) / keep.sum(1).clamp(min=1))


def padded_tokens() -> Batch:
    text = classes(VOCABULARY - 1, BATCH, 7) + 1
    for row in range(BATCH):
        text[row, 7 - row :] = 0
    return Batch(args=(text,), targets=classes())


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(7, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 1, 12, dropout=0.1, batch_first=True)
        self.generator = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1)).to(self.source.weight)
        out = self.transformer(self.source(src), self.target(tgt), tgt_mask=mask)
        return self.generator(out)


def translation() -> Batch:
    after = next_tokens(VOCABULARY, 6)
    return Batch(args=(classes(7, BATCH, 4), *after.args), targets=after.targets)


class WeightsOfAttention(nn.Module):
    """Sequence-first attention; hands out the weights, as people do to look at them."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, WIDTH)
        self.query = nn.Parameter(torch.randn(3, 1, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.project(x).transpose(0, 1)
        query = self.query.repeat(1, x.size(1), 1)
        out, weights = self.attention(query, x, x, need_weights=True)
        return self.head(out.mean(0)), weights


def sequences() -> Batch:
    return Batch(args=(torch.randn(BATCH, 7, 6),), targets=classes())


def bare_encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 9, dropout=0.2, activation="gelu", norm_first=True)


def smoother() -> Batch:
    x = torch.randn(7, BATCH, 6)
    return Batch(args=(x,), targets=x.roll(1, 0))


ALL: Final = (
    Architecture(
        name="tokens_tied",
        make=architectures.Tokens,
        batch=tokens,
        loss=lambda logits, y: F.cross_entropy(logits, y),
        why="embedding with a padding index, tied to the read-out; a frozen layer between",
    ),
    Architecture(
        name="nanogpt",
        make=lambda: GPT(flash=True),
        batch=text_with_targets,
        loss=own_loss,
        why="returns (logits, loss), tied head, positions by arange, dropout inside attention",
    ),
    Architecture(
        name="gpt_by_hand",
        make=lambda: GPT(flash=False),
        batch=text_with_targets,
        loss=own_loss,
        why="masked_fill with a slice of a buffer that no state_dict has, split, @",
    ),
    Architecture(
        name="shared_layers",
        make=SharedLayers,
        batch=tokens,
        why="the same module under several paths: one set of weights, three names",
    ),
    Architecture(
        name="vit",
        make=ViT,
        batch=images,
        why="patches by six axes, a class token that expands, einsum over heads",
    ),
    Architecture(
        name="transformer_encoder",
        make=EncoderClassifier,
        batch=padded_tokens,
        why="torch's encoder has a second way through it in evaluation; masks come from data",
    ),
    Architecture(
        name="transformer_seq2seq",
        make=Seq2Seq,
        batch=translation,
        loss=lambda logits, y: token_loss(logits.contiguous(), y),
        why="two inputs of different lengths and vocabularies, a mask made in forward",
    ),
    Architecture(
        name="attention_weights",
        make=WeightsOfAttention,
        batch=sequences,
        loss=lambda output, y: F.cross_entropy(output[0], y) + output[1].square().mean(),
        why="time before batch, repeat of a parameter, weights in the loss",
    ),
    Architecture(
        name="bare_encoder_layer",
        make=bare_encoder_layer,
        batch=smoother,
        loss=F.mse_loss,
        why="one set of weights was shared by all trials elsewhere",
    ),
)
