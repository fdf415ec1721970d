"""One trial in ordinary torch, unfused and without bubbles: the oracle of every bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn, optim

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
    model = study.build_model(params, seed)
    optimizer = study.make_optimizer(model, params)
    training = Training(study, params, seed, model=model, optimizer=optimizer)
    with seeded(seed):
        while training.epochs_done < study.epochs:
            training.train_epoch()
            if epoch_end is not None:
                epoch_end(training.epochs_done - 1, training.value())
        return training.value()


class Training:
    """A model in training with a trial's hyperparameters, epoch by epoch; `state` can be stored
    after each. It draws from torch's own stream as it stands: enter `seeded` before.
    """

    def __init__(
        self,
        study: Study,
        params: Params,
        seed: int,
        *,
        model: nn.Module,
        optimizer: optim.Optimizer,
    ) -> None:
        self._study = study
        self._params = params
        self._seed = seed
        self._model = model
        self._optimizer = optimizer
        self._steps_done = 0
        self.epochs_done = 0

    def train_epoch(self) -> None:
        """Raises TrialFailedError if a loss is not finite; the user's own errors come through."""
        study, data, seed = self._study, self._study.data(), self._seed
        is_finite = torch.tensor(True)
        for rows in study.batch_indices(self._params, seed, self.epochs_done):
            self._optimizer.zero_grad()
            inputs = study.inputs(data.train_x[rows], seed, self._steps_done)
            with trial_stream(seed, self._steps_done):  # what the model draws, such as dropout
                outputs = self._model(inputs)
            targets = data.train_y[rows]
            loss = loss_in_stream(study.loss, outputs, targets, seed=seed, step=self._steps_done)
            loss.backward()
            if study.clip_name is not None:
                clip_model(study.clip_name, self._model, study.clip_limit(self._params))
            self._optimizer.step()
            self._steps_done += 1
            is_finite = is_finite & loss.detach().isfinite()  # as a sum it could overflow
        if not is_finite:
            raise TrialFailedError(f"its loss was not finite in epoch {self.epochs_done}")
        self.epochs_done += 1

    def value(self) -> float:
        """On the test set."""
        data = self._study.data()
        return self._study.evaluate(self._model, data, seed=self._seed, step=self._steps_done)

    def state(self) -> dict[str, Any]:
        """All that the rest of the training depends on, for `load`."""
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "steps_done": self._steps_done,
            "epochs_done": self.epochs_done,
        }

    def load(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self._steps_done = state["steps_done"]
        self.epochs_done = state["epochs_done"]
