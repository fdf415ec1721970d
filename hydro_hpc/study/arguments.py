"""What a study is given, checked without running the user's code. All raise StudyError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from hydro_hpc.errors import StudyError
from hydro_hpc.study.space import Choice, Distribution, Integer, LogUniform, Params, Uniform


def split_space(space: Mapping[str, Any]) -> tuple[dict[str, Distribution], Params]:
    """What is searched, and the constants."""
    if not isinstance(space, Mapping):
        raise StudyError(f"space is a {type(space).__name__}; give a dict of name to distribution")
    searched: dict[str, Distribution] = {}
    constants: Params = {}
    for name, value in space.items():
        if isinstance(value, Uniform | LogUniform | Integer | Choice):
            searched[name] = value
        else:
            constants[name] = value
    if not searched:
        raise StudyError(
            "the space is empty: nothing is searched; add for example 'lr': log_uniform(1e-4, 1e-1)"
        )
    return searched, constants


def check_name(name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise StudyError(
            f"name={name!r} cannot name a folder; use up to 64 letters, digits, '-', '_' and '.'"
        )


def check_callable(what: str, function: object) -> None:
    if not callable(function):
        raise StudyError(f"{what} is a {type(function).__name__}; give a class or a function")
    if what == "loss" and isinstance(function, type):
        raise StudyError(
            f"loss is the class {function.__name__}; give an object: {function.__name__}()"
        )
    if what == "model" and isinstance(function, nn.Module):
        raise StudyError(
            f"model is one {type(function).__name__}; give the class or a function that makes one, "
            "so that every trial gets its own"
        )


def check_count(what: str, count: object) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise StudyError(f"{what}={count!r} must be an integer of at least 1")


def check_one_of(what: str, value: object, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise StudyError(
            f"{what}={value!r} is not known; use one of {', '.join(map(repr, allowed))}"
        )
