"""Recurrent networks: torch's modules, and loops over time in Python."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    Architecture,
    Batch,
    classes,
    next_tokens,
    token_loss,
)

HIDDEN: Final = 6


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, HIDDEN, num_layers=2, batch_first=True, dropout=0.2)
        self.fc = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(2, x.size(0), HIDDEN).to(x.device)
        c0 = torch.zeros(2, x.size(0), HIDDEN).to(x.device)
        out, _ = self.lstm(x, (h0, c0))
        return self.fc(out[:, -1, :])


class BiGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.gru = nn.GRU(4, HIDDEN, bidirectional=True)
        self.fc = nn.Linear(2 * HIDDEN, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        _, h = self.gru(self.embed(tokens.t()))
        return self.fc(torch.cat((h[-2], h[-1]), dim=1))


class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.fc = nn.GRUCell(3, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), HIDDEN)
        outputs = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return self.fc(torch.stack(outputs, dim=1).mean(dim=1))


class LanguageModel(nn.Module):
    """The state comes in and goes out, detached in between, as in torch's own example."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(11, 5)
        self.rnn = nn.LSTM(5, HIDDEN, 2, dropout=0.1)
        self.decoder = nn.Linear(HIDDEN, 11)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)

    def forward(
        self, text: Tensor, hidden: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden = tuple(h.detach() for h in hidden)
        output, hidden = self.rnn(self.encoder(text), hidden)
        return self.decoder(output).view(-1, 11), hidden


def text_and_state() -> Batch:
    both = next_tokens(11, 7)
    state = (torch.randn(2, BATCH, HIDDEN), torch.randn(2, BATCH, HIDDEN))
    return Batch(args=(both.args[0].t().contiguous(), state), targets=both.targets.t().reshape(-1))


class RNNWithAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, HIDDEN, nonlinearity="relu", batch_first=True)
        self.score = nn.Linear(2 * HIDDEN, 1)
        self.fc = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.rnn(x)
        query = last[-1].unsqueeze(1).expand(-1, states.size(1), -1)
        scores = self.score(torch.tanh(torch.cat([states, query], dim=2))).squeeze(2)
        context = torch.bmm(F.softmax(scores, dim=1).unsqueeze(1), states).squeeze(1)
        return self.fc(context)


class PackedLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, HIDDEN, batch_first=True)
        self.fc = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, (h, _) = self.lstm(packed)
        padded, _ = pad_packed_sequence(output, batch_first=True)
        return self.fc(h[-1] + padded.sum(1) / lengths.unsqueeze(1))


class Scan(nn.Module):
    """A state-space layer: a decay per channel, a result written step by step into zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.rand(HIDDEN))
        self.inward, self.outward = nn.Linear(3, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        u = self.inward(x)
        decay = torch.exp(-F.softplus(self.log_decay))
        state = torch.zeros_like(u[:, 0])
        states = torch.zeros_like(u)
        for t in range(u.shape[1]):
            state = decay * state + u[:, t]
            states[:, t] = state
        return self.outward(states).amax(dim=1)


def sequences() -> Batch:
    return Batch(args=(torch.randn(BATCH, 7, 3),), targets=classes())


def uneven_sequences() -> Batch:
    lengths = torch.randint(2, 8, (BATCH,))
    lengths[0] = 7
    return Batch(args=(torch.randn(BATCH, 7, 3), lengths), targets=classes())


def tokens() -> Batch:
    return Batch(args=(classes(11, BATCH, 7),), targets=classes())


def language_loss(output: tuple[Tensor, tuple[Tensor, Tensor]], targets: Tensor) -> Tensor:
    return token_loss(output[0], targets)


ALL: Final = (
    Architecture(
        name="lstm_classifier",
        make=LSTMClassifier,
        batch=sequences,
        why="dropout between layers is drawn inside torch; zeros of the batch's size",
    ),
    Architecture(
        name="bidirectional_gru",
        make=BiGRU,
        batch=tokens,
        why="no batching rule exists for it in evaluation; negative indices into layers",
    ),
    Architecture(
        name="gru_cell_loop",
        make=CellLoop,
        batch=sequences,
        why="range(x.size(1)) needs a number, one module seven times",
    ),
    Architecture(
        name="lstm_language_model",
        make=LanguageModel,
        batch=text_and_state,
        loss=language_loss,
        why="nested tuples in and out, [layers, batch, width] where axis 0 is no batch",
    ),
    Architecture(
        name="rnn_with_attention",
        make=RNNWithAttention,
        batch=sequences,
        why="bmm, expand with -1, squeeze of an axis by number",
    ),
    Architecture(
        name="packed_lstm",
        make=PackedLSTM,
        batch=uneven_sequences,
        why="lengths are read as values and sort the batch; shapes inside depend on them",
    ),
    Architecture(
        name="state_space_scan",
        make=Scan,
        batch=sequences,
        why="writes into fresh zeros, which cannot be done under vmap",
    ),
)
