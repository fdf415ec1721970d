"""The surrogates that a study's trials train, in place of its model at the target's width.

Their rules are made once for each set of what the model is built from, since that takes models of
the target's width, and are kept in the study's folder, where other processes find them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from hydro_hpc.errors import ShrinkError, StudyError
from hydro_hpc.nn import trial_stream
from hydro_hpc.study.randomness import seeded
from hydro_hpc.study.space import Distribution, LogUniform, Params, Uniform
from hydro_hpc.surrogate import Narrow, Surrogate, shrink
from hydro_hpc.surrogate.narrow import WIDTH, widths_of
from hydro_hpc.surrogate.stored import Recipe, drawn_by, from_json, recipe_of, to_json
from hydro_hpc.surrogate.table import family_of

ARGUMENTS = "arguments"  # in a stored file: what the model was built from, beside the width


class Surrogates:
    """Of one study. `searched` are the model's own hyperparameters that are; those of a continuous
    distribution are taken not to change its sizes, which is checked.
    """

    def __init__(
        self,
        narrow: Narrow,
        model: Callable[..., nn.Module],
        *,
        optimizer: str,
        searched: Mapping[str, Distribution],
    ) -> None:
        """Raises StudyError if there is no such width, or the optimizer has no rule."""
        self.widths = widths_of(narrow, model)
        try:
            family_of(optimizer)
        except ShrinkError as error:
            raise StudyError(str(error)) from None
        self._model = model
        self._optimizer = optimizer
        self._chosen = {n: d for n, d in searched.items() if not _is_continuous(d)}
        self._middles = {n: d.middle() for n, d in searched.items() if _is_continuous(d)}
        self._recipes: dict[str, Recipe] = {}
        self._directory: Path | None = None

    def build(self, arguments: Params, seed: int) -> Surrogate:
        """Its weights are a function of the arguments: those that the model takes, and the seed."""
        recipe = self.recipe(arguments)
        with seeded(seed):
            module = self._model(**{WIDTH: self.widths.surrogate}, **arguments)
        try:
            return recipe.apply(_require_module(module))
        except ShrinkError as error:
            raise StudyError(str(error)) from None

    def recipe(self, arguments: Params) -> Recipe:
        """Found in memory, else in the folder, else made."""
        key = self._key(arguments)
        if key not in self._recipes:
            stored = None if self._directory is None else self._stored(key, arguments)
            self._recipes[key] = stored or self._made(arguments)
            if stored is None:
                self._store(key)
        return self._recipes[key]

    def keep(self, directory: Path) -> None:
        """Keeps the rules there from now on. Raises StudyError if those that are there already are
        of another model than those that this process has made.
        """
        self._directory = directory
        for key, recipe in self._recipes.items():
            found = _read(_path(directory, key))
            if found is None:
                self._store(key)
            elif different := _difference(found, recipe):
                raise StudyError(_changed(directory, different))

    def _key(self, arguments: Params) -> str:
        return json.dumps({n: arguments[n] for n in sorted(self._chosen)}, sort_keys=True)

    def _made(self, arguments: Params) -> Recipe:
        factory = functools.partial(self._model, **{**arguments, **self._middles})
        try:
            with trial_stream(0, 0):
                surrogate = shrink(factory, width=self.widths.surrogate)
        except ShrinkError as error:
            raise StudyError(f"no surrogate of the study's model: {error}") from error
        return recipe_of(surrogate, drawn_by(self._raw(arguments)), self.widths)

    def _raw(self, arguments: Params) -> nn.Module:
        """The narrow model as its factory draws it, the same each time."""
        values = {**arguments, **self._middles, WIDTH: self.widths.surrogate}
        with trial_stream(0, 0):
            return _require_module(self._model(**values))

    def _stored(self, key: str, arguments: Params) -> Recipe | None:
        """Raises StudyError if they are of another model."""
        assert self._directory is not None
        recipe = _read(_path(self._directory, key))
        if recipe is None:
            return None
        if recipe.widths != self.widths:
            raise StudyError(_changed(self._directory, "its widths"))
        if different := recipe.difference(drawn_by(self._raw(arguments))):
            raise StudyError(_changed(self._directory, f"'{different}'"))
        return recipe

    def _store(self, key: str) -> None:
        """A reader sees all of a file or none of it; who writes at once writes the same."""
        if self._directory is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = _path(self._directory, key)
        data = {ARGUMENTS: json.loads(key), **to_json(self._recipes[key], self._optimizer)}
        temporary = path.with_suffix(f".{os.uname().nodename}.{os.getpid()}")
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        temporary.replace(path)


def _is_continuous(distribution: Distribution) -> bool:
    return isinstance(distribution, Uniform | LogUniform)


def _require_module(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is a {type(model).__name__}, not an nn.Module")
    return model


def _path(directory: Path, key: str) -> Path:
    return directory / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def _read(path: Path) -> Recipe | None:
    """None if there is no such file; StudyError if it is none of ours."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return from_json({name: value for name, value in data.items() if name != ARGUMENTS})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise StudyError(
            f"{path} has no rules of surrogates that this version can use; give the study another "
            "name, or move its folder away"
        ) from None


def _difference(stored: Recipe, made: Recipe) -> str:
    if stored.widths != made.widths:
        return "its widths"
    if name := stored.difference(made.drawn):
        return f"'{name}'"
    other = (n for n, rule in made.rules.items() if stored.rules[n] != rule)
    return next((f"'{name}'" for name in other), "")


def _changed(directory: Path, what: str) -> str:
    return (
        f"the model is another than when the rules in {directory} were made: {what} differs; give "
        "the study another name, or move its folder away"
    )
