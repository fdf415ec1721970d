"""The surrogates that a study's trials train, in place of its model at the target's width.

Their rules are made once for each set of what the model is built from, since that takes models of
the target's width, and are kept in the study's folder, where other processes find them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from hydro_hpc.atomic_write import replacing_by_any
from hydro_hpc.errors import ShrinkError, StudyError
from hydro_hpc.study.narrowing import Arguments, AtWidth, Followed, Narrowing, difference
from hydro_hpc.study.space import Distribution, Params
from hydro_hpc.surrogate import Narrow, Surrogate
from hydro_hpc.surrogate.narrow import Widths, narrowness_of
from hydro_hpc.surrogate.stored import Recipe, from_json, to_json
from hydro_hpc.surrogate.table import family_of

ARGUMENTS: Final = "arguments"  # in a stored file: what the model was built from, beside the width
CHECKSUM: Final = "checksum"  # of all else in it


class Surrogates:
    """Of one study."""

    def __init__(
        self,
        narrow: Narrow,
        model: Callable[..., nn.Module],
        *,
        optimizer: str,
        searched: Mapping[str, Distribution],
        example: Callable[[], Tensor],
    ) -> None:
        """`searched` are the model's own hyperparameters that are, `example` gives what it takes.
        Raises StudyError if there is no such width, or the optimizer has no rule.
        """
        self.narrowness = narrowness_of(narrow, model)
        try:
            family_of(optimizer)
        except ShrinkError as error:
            raise StudyError(str(error)) from None
        self._optimizer = optimizer
        self._arguments = Arguments(searched)
        self._narrowing: Narrowing
        if isinstance(self.narrowness, Widths):
            self._narrowing = AtWidth(
                model=model, arguments=self._arguments, widths=self.narrowness, example=example
            )
        else:
            self._narrowing = Followed(model, self._arguments, self.narrowness, example)
        self._recipes: dict[str, Recipe] = {}
        self._directory: Path | None = None

    def build(self, arguments: Params, seed: int) -> Surrogate:
        """Its weights are a function of the arguments: those that the model takes, and the seed."""
        recipe = self.recipe(arguments)
        try:
            return self._narrowing.build(recipe, arguments, seed)
        except ShrinkError as error:
            raise StudyError(str(error)) from None

    def knows(self, arguments: Params) -> bool:
        """Says whether this process has their recipe in memory."""
        return self._arguments.key(arguments) in self._recipes

    def recipe(self, arguments: Params) -> Recipe:
        """Found in memory, else in the folder, else made."""
        key = self._arguments.key(arguments)
        if key not in self._recipes:
            stored = None if self._directory is None else self._stored(key, arguments)
            self._recipes[key] = stored or self._made(arguments)
            if stored is None:
                self._store(key)
        return self._recipes[key]

    def said(self, arguments: Params) -> list[str]:
        """Lines about what shrinks and what stays, and what to know of it."""
        self.recipe(arguments)
        return self._narrowing.said(arguments)

    def warned(self) -> list[str]:
        """What to know of the surrogates whose rules this process has made."""
        return self._narrowing.warned()

    def keep(self, directory: Path) -> None:
        """Keeps the rules there from now on. Raises StudyError if those that are there already are
        of another model than those that this process has made.
        """
        self._directory = directory
        for key, recipe in self._recipes.items():
            found = _read(_path(directory, key))
            if found is None:
                self._store(key)
            elif different := difference(found, recipe):
                raise StudyError(_changed(directory, different))

    def _made(self, arguments: Params) -> Recipe:
        try:
            return self._narrowing.make(arguments)
        except ShrinkError as error:
            raise StudyError(f"no surrogate of the study's model: {error}") from error

    def _stored(self, key: str, arguments: Params) -> Recipe | None:
        """Raises StudyError if they are of another model."""
        assert self._directory is not None
        recipe = _read(_path(self._directory, key))
        if recipe is None:
            return None
        try:
            different = self._narrowing.difference(recipe, arguments)
        except ShrinkError as error:
            raise StudyError(f"no surrogate of the study's model: {error}") from error
        if different:
            raise StudyError(_changed(self._directory, different))
        return recipe

    def _store(self, key: str) -> None:
        """Who writes at once writes the same. StudyError if it cannot be written."""
        if self._directory is None:
            return
        path = _path(self._directory, key)
        data = {ARGUMENTS: json.loads(key), **to_json(self._recipes[key], self._optimizer)}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with replacing_by_any(path) as temporary:
                temporary.write_text(
                    json.dumps({CHECKSUM: _checksum(data), **data}, indent=1), encoding="utf-8"
                )
        except OSError as error:
            raise StudyError(
                f"{self._directory} cannot be written ({error.strerror}), so it does not keep the "
                "rules of surrogates; make room, or copy the study with its folder to where you "
                "may write"
            ) from None


def _path(directory: Path, key: str) -> Path:
    return directory / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def _read(path: Path) -> Recipe | None:
    """None if there is no such file; StudyError if it is none of ours, or not as it was written."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_as_written = data.pop(CHECKSUM) == _checksum(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_as_written = False
    if not is_as_written:
        raise StudyError(
            f"{path} is not as it was written, so trials would train by other rules than before: "
            "put it back, or remove it, and the rules are made again of the model as it is now"
        )
    try:
        return from_json({name: value for name, value in data.items() if name != ARGUMENTS})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StudyError(
            f"{path} has no rules of surrogates that this version can use; give the study another "
            "name, or move its folder away"
        ) from None


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def _changed(directory: Path, what: str) -> str:
    return (
        f"the model is another than when the rules in {directory} were made: {what} differs; give "
        "the study another name, or move its folder away"
    )
