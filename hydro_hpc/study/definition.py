"""`Study`: what an ML engineer writes, for ONE model.

Everything of a trial is a function of (params, seed): a bundle and `run_alone` start from the
same weights and see the same batches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, optim

from hydro_hpc.errors import StudyError
from hydro_hpc.nn import trial_stream
from hydro_hpc.study import alone, loading
from hydro_hpc.study.arguments import (
    check_callable,
    check_count,
    check_name,
    check_one_of,
    split_space,
)
from hydro_hpc.study.batches import Augment, augmented, batch_sizes, test_batches
from hydro_hpc.study.check import check_study
from hydro_hpc.study.clipping import clip_name, limit_of
from hydro_hpc.study.data import Data, batch_indices, load_data
from hydro_hpc.study.description import Direction, PrunerName, SearchName, StudyDescription
from hydro_hpc.study.hyperparameters import split
from hydro_hpc.study.metrics import METRIC_CALL, Loss, Metric, choose_metric
from hydro_hpc.study.narrowing import require_module
from hydro_hpc.study.optimizers import (
    check_bounds,
    optimizer_name,
    optimizer_settings,
    torch_optimizer,
    trained,
)
from hydro_hpc.study.randomness import seeded
from hydro_hpc.study.space import Params
from hydro_hpc.study.surrogates import Surrogates
from hydro_hpc.study.transfers import cautions, refuse_what_does_not_transfer, statement
from hydro_hpc.surrogate import Narrow, Surrogate
from hydro_hpc.surrogate.narrow import Narrowness
from hydro_hpc.surrogate.rules import Rules

if TYPE_CHECKING:
    from hydro_hpc.study.search import Results


class Study:
    """A search over hyperparameters of one model.

        study = Study(
            name="digits", model=MLP, data=digits, loss=nn.CrossEntropyLoss(), optimizer="adam",
            space={"lr": log_uniform(1e-4, 1e-1), "hidden": choice(32, 64)},
        )
        if __name__ == "__main__":
            study.run()

    `space` names them: a distribution is searched, a plain value is a constant. What the optimizer
    knows (`lr`, `weight_decay`, `momentum`, `betas` or `beta1` and `beta2`, `eps`, ...) go to it,
    `batch_size` and `clip_norm` or `clip_value` (of gradients) to the training, all others to
    `model`, a class or function that returns an `nn.Module`. Trials of one batch size and one shape
    of model are trained side by side.

    `data` returns (train_x, train_y, test_x, test_y), rows first; it is called once per process.
    Each trial sees the rows in an order of its own. `augment(x)` is given each batch of train_x
    and returns one of the same shape; what it draws from torch, NumPy or `random` is the trial's.
    `loss(outputs, targets)` returns a scalar tensor. `metrics` is what a trial is judged by on the
    test set: "accuracy", "loss", or a function of (outputs, targets) that returns a number.

    With `surrogate=Narrow(width=64)`, trials train the model at this width by the rules of muP, so
    that what they find is good for `model()` at its default width, the target.
    """

    def __init__(
        self,
        *,
        name: str,
        model: Callable[..., nn.Module],
        data: Callable[[], Any],
        loss: Loss,
        space: Mapping[str, Any],
        metrics: str | Metric = "accuracy",
        optimizer: str | type[optim.Optimizer] = "adam",
        epochs: int = 10,
        batch_size: int | None = None,
        trials: int = 32,
        seed: int = 0,
        direction: Direction | None = None,
        search: SearchName = "tpe",
        pruner: PrunerName = "none",
        slots: int | None = None,
        augment: Augment | None = None,
        surrogate: Narrow | None = None,
    ) -> None:
        """Raises StudyError on anything that can be seen without running the user's code.

        `batch_size`: 32, unless the space has it. `slots`: how many trials a bundle trains side by
        side; None: as many as pay.
        """
        check_name(name)
        for what, function in (("model", model), ("data", data), ("loss", loss)):
            check_callable(what, function)
        if augment is not None:
            check_callable("augment", augment)
        counts = {"epochs": epochs, "trials": trials}
        counts |= {} if slots is None else {"slots": slots}
        for what, count in counts.items():
            check_count(what, count)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise StudyError(f"seed={seed!r} must be an integer")
        check_one_of("search", search, ("tpe", "random"))
        check_one_of("pruner", pruner, ("none", "median"))
        check_one_of("direction", direction, (None, "maximize", "minimize"))
        self.name = name
        self.model = model
        self.loss = loss
        self.metric_function, best = choose_metric(metrics, loss)
        self.direction: Direction = direction or best
        self.searched, self.constants = split_space(space)
        self.batch_sizes = batch_sizes(space, batch_size)
        if "batch_size" not in space:
            [self.constants["batch_size"]] = self.batch_sizes
        self.clip_name = clip_name(space)
        self.optimizer_name = optimizer_name(optimizer)
        check_bounds(self.optimizer_name, space)
        self.split = split(space, self.optimizer_name, model)
        self.epochs = epochs
        self.trials = trials
        self.seed = seed
        self.search = search
        self.pruner = pruner
        self.slots = slots
        self.augment = augment
        self._load_data = data
        self.surrogate = surrogate
        self._surrogates = None if surrogate is None else self._make_surrogates(surrogate)

    @property
    def narrowness(self) -> Narrowness | None:
        """That of surrogates against the target, None if the study has no surrogate."""
        return None if self._surrogates is None else self._surrogates.narrowness

    def with_surrogate(self, *, by: int) -> Study:
        """Returns the same study with surrogates of another width."""
        assert self.surrogate is not None
        other = copy.copy(self)
        other.surrogate = replace(self.surrogate, width=None, by=by)
        other._surrogates = other._make_surrogates(other.surrogate)
        return other

    def _make_surrogates(self, narrow: object) -> Surrogates:
        if not isinstance(narrow, Narrow):
            kind = type(narrow).__name__
            raise StudyError(f"surrogate= is of type {kind}; give hydro_hpc.surrogate.Narrow(by=8)")
        refuse_what_does_not_transfer(narrow, self.searched, [*self.searched, *self.constants])
        searched = {n: d for n, d in self.searched.items() if n in self.split.model}
        optimizer = self.optimizer_name
        return Surrogates(
            narrow, self.model, optimizer=optimizer, searched=searched, example=self._few_rows
        )

    def _few_rows(self) -> Tensor:
        """A batch as a model takes it; loads the data."""
        return self.data().train_x[: min(self.batch_sizes)].clone()

    @property
    def cautions(self) -> list[str]:
        """Sentences about what surrogates do not say of the target for certain."""
        if self.surrogate is None or self._surrogates is None:
            return []
        return list(
            cautions(
                self.surrogate,
                self._surrogates.narrowness,
                optimizer=self.optimizer_name,
                searched=self.searched,
                constants=self.constants,
                epochs=self.epochs,
            )
        )

    def surrogate_lines(self) -> list[str]:
        """For people: what trials train in place of what, and the cautions; loads the data."""
        if self.surrogate is None or self._surrogates is None:
            return []
        what = statement(
            self.surrogate,
            self._surrogates.narrowness,
            epochs=self.epochs,
            batch_size=self.constants.get("batch_size"),
            num_rows=len(self.data().train_x),
        )
        return [what, *self.cautions]

    @property
    def description(self) -> StudyDescription:
        """The study without its code, for the search's process."""
        settings = {name: repr(value) for name, value in self.constants.items()}
        settings |= {"epochs": repr(self.epochs), "optimizer": self.optimizer_name}
        settings |= {} if self.augment is None else {"augment": "on"}
        if self._surrogates is not None:
            settings["surrogate"] = str(self._surrogates.narrowness)
        return StudyDescription(
            name=self.name,
            space=self.searched,
            direction=self.direction,
            search=self.search,
            pruner=self.pruner,
            trials=self.trials,
            seed=self.seed,
            settings=settings,
        )

    def data(self) -> Data:
        """The user's tensors, as he returned them. Raises StudyError if they cannot train."""
        return self._data

    @cached_property
    def _data(self) -> Data:
        return load_data(self._load_data, batch_size=max(self.batch_sizes))

    def build_model(self, params: Params, seed: int) -> nn.Module:
        """Returns a new model on the CPU for a trial to train: the study's surrogate, if it has
        one. Its weights are a function of (params, seed).

        The global random state is left as it was. What the user's code raises comes through.
        """
        if self.surrogate is None:
            return self.build_target(params, seed)
        return self.build_surrogate(params, seed).module

    def build_surrogate(self, params: Params, seed: int) -> Surrogate:
        """Returns what a trial trains, with its rules. StudyError if the study has no surrogate."""
        if self._surrogates is None:
            raise StudyError("the study has no surrogate; define it with surrogate=Narrow(by=8)")
        return self._surrogates.build(self._model_arguments(params), seed)

    def rules_of(self, params: Params) -> Rules | None:
        """Returns the rules of a trial's surrogate without building it, None if there are none."""
        if self._surrogates is None:
            return None
        return self._surrogates.recipe(self._model_arguments(params)).rules

    def has_rules(self, params: Params) -> bool:
        """Says whether a trial's model can be built without finding out a surrogate's rules first,
        which takes models of the target's size.
        """
        return self._surrogates is None or self._surrogates.knows(self._model_arguments(params))

    def narrowed(self, params: Params) -> list[str]:
        """Lines about what shrinks in a trial's surrogate and what stays; empty without one."""
        if self._surrogates is None:
            return []
        return self._surrogates.said(self._model_arguments(params))

    def surrogate_warnings(self) -> list[str]:
        """Lines about the surrogates whose rules this process has made."""
        return [] if self._surrogates is None else self._surrogates.warned()

    def keep_rules(self, directory: Path) -> None:
        """Keeps the rules of surrogates in this folder. Raises StudyError if those that are in it
        are of another model.
        """
        if self._surrogates is not None:
            self._surrogates.keep(directory)

    def _model_arguments(self, params: Params) -> Params:
        values = {**self.constants, **params}
        return {name: values[name] for name in sorted(self.split.model)}

    def build_target(self, params: Params, seed: int) -> nn.Module:
        """Returns the user's own model, at the target's width; otherwise as `build_model`."""
        arguments = self._model_arguments(params)
        with seeded(seed):
            return require_module(self.model(**arguments))

    def optimizer_settings(self, params: Params) -> Params:
        """Returns the optimizer's keyword arguments for these hyperparameters."""
        return optimizer_settings({**self.constants, **params}, self.split.optimizer)

    def make_optimizer(self, model: nn.Module, params: Params) -> optim.Optimizer:
        """Returns torch's own, of a trial's model. Raises what torch raises if these settings
        cannot be.
        """
        settings, name = self.optimizer_settings(params), self.optimizer_name
        return torch_optimizer(
            name, trained(name, model, settings, self.rules_of(params)), settings
        )

    def check_settings(self, params: Params) -> None:
        """Raises what torch raises if the optimizer cannot have these settings."""
        torch_optimizer(self.optimizer_name, [torch.zeros(1)], self.optimizer_settings(params))

    def batch_size_of(self, params: Params) -> int:
        """Returns the number of rows of a trial's batches."""
        return int({**self.constants, **params}["batch_size"])

    def clip_limit(self, params: Params) -> float:
        """Returns what a trial's gradients are clipped to, infinite where they are not."""
        values = {**self.constants, **params}
        return math.inf if self.clip_name is None else limit_of(self.clip_name, values)

    def batch_indices(self, params: Params, seed: int, epoch: int) -> Tensor:
        """Returns the rows of an epoch, LongTensor [steps, batch]; a short last one is left out."""
        num_rows = len(self.data().train_x)
        return batch_indices(num_rows, self.batch_size_of(params), seed=seed, epoch=epoch)

    def inputs(self, x: Tensor, seed: int, step: int) -> Tensor:
        """Returns a batch of train_x as a trial's step sees it, from 0; see `augmented`."""
        return augmented(self.augment, x, seed=seed, step=step)

    def metric(self, outputs: Any, targets: Tensor, *, seed: int, step: int) -> float:
        """Returns a trial's value from its model's outputs on the whole test set; what the metric
        draws is the trial's.
        """
        with trial_stream(seed, step, METRIC_CALL, training=False):
            return float(self.metric_function(outputs, targets))

    def evaluate(self, model: nn.Module, data: Data, *, seed: int, step: int) -> float:
        """Returns the value on the test set of a trial's model after `step` steps; puts it back
        into the mode that it was in.
        """
        was_training = model.training
        model.eval()
        outputs = []
        with torch.no_grad():
            for call, x in enumerate(test_batches(data.test_x)):
                with trial_stream(seed, step, call, training=False):
                    outputs.append(model(x))
            value = self.metric(torch.cat(outputs), data.test_y, seed=seed, step=step)
        model.train(was_training)
        return value

    def run_alone(self, params: Params, seed: int) -> float:
        """Trains one trial with ordinary torch, and returns its value: what a bundle must equal.

        Raises TrialFailedError if the loss is not finite; the user's own errors come through.
        """
        return alone.train(self, params, seed)

    def run(self, directory: Path | str = ".") -> Results:
        """Runs the study here, without bubbles, trial after trial; goes on where it was left.

        A study file that hydro-trial loads ends at this call: there, its trials run in bubbles.
        """
        loading.stop_at(self)
        from hydro_hpc.study.run import run_study  # Optuna, which a worker does not need

        return run_study(self, Path(directory))

    def check(self) -> None:
        """Tries the user's code once, on one batch; raises StudyError if it cannot train."""
        check_study(self)
