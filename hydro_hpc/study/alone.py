"""One trial in ordinary torch, unfused and without bubbles: the oracle of every bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from hydro_hpc.nn import trial_stream
from hydro_hpc.study.clipping import clip_model
from hydro_hpc.study.losses import loss_in_stream
from hydro_hpc.study.randomness import seeded
from hydro_hpc.study.space import Params
from hydro_hpc.study.trial import TrialFailedError

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study

EpochEnd = Callable[[int, float], None]
"""Called with the epoch, from 0, and the value after it; what it raises ends the training."""


def train(study: Study, params: Params, seed: int, *, epoch_end: EpochEnd | None = None) -> float:
    """Trains one trial and returns its value on the test set; see `Study.run_alone`."""
    data = study.data()
    model = study.build_model(params, seed)
    optimizer = study.make_optimizer(model, params)
    steps_done = 0
    with seeded(seed):
        for epoch in range(study.epochs):
            is_finite = torch.tensor(True)
            for rows in study.batch_indices(params, seed, epoch):
                optimizer.zero_grad()
                inputs = study.inputs(data.train_x[rows], seed, steps_done)
                with trial_stream(seed, steps_done):  # what the model draws, such as dropout
                    outputs = model(inputs)
                targets = data.train_y[rows]
                loss = loss_in_stream(study.loss, outputs, targets, seed=seed, step=steps_done)
                loss.backward()
                if study.clip_name is not None:
                    clip_model(study.clip_name, model, study.clip_limit(params))
                optimizer.step()
                steps_done += 1
                is_finite = is_finite & loss.detach().isfinite()  # as a sum it could overflow
            if not is_finite:
                raise TrialFailedError(f"its loss was not finite in epoch {epoch}")
            if epoch_end is not None:
                epoch_end(epoch, study.evaluate(model, data, seed=seed, step=steps_done))
        return study.evaluate(model, data, seed=seed, step=steps_done)
