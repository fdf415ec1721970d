"""What `shrink` and `check` are given beside a model, refused in a sentence where it is no such."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.width import NOT_AT_A_WIDTH


def check_keep(keep: object) -> None:
    """ShrinkError if it is no list of names."""
    if isinstance(keep, str):
        raise ShrinkError(f"keep={keep!r} is one string: give a list of names, as keep=[{keep!r}]")
    some = keep if isinstance(keep, Collection) else [keep]
    if wrong := [each for each in some if not isinstance(each, str)]:
        raise ShrinkError(
            f"keep= has what is of type {_type(wrong[0])}: give a list of names of modules "
            "or parameters, as keep=['encoder.latent']"
        )


def refuse_keep(keep: Collection[str]) -> None:
    """Of a function of the width."""
    if keep:
        raise ShrinkError(f"keep= {NOT_AT_A_WIDTH}")


def check_uses(uses: object) -> None:
    """ShrinkError if it does not say of parameters, by name, which axes give and take."""
    if uses is None:
        return
    form = (
        "say of raw parameters, by name, which of their axes gives and which takes, as "
        "uses={'mix': (1, 0), 'shift': None}"
    )
    if not isinstance(uses, Mapping):
        raise ShrinkError(f"uses= is of type {_type(uses)}: {form}")
    for name, use in uses.items():
        if not isinstance(name, str):
            raise ShrinkError(f"uses= names a parameter by what is of type {_type(name)}: {form}")
        if not (use is None or _are_axes(use)):
            raise ShrinkError(f"uses= says {use!r} of {name!r}: {form}")


def _are_axes(use: object) -> bool:
    if not isinstance(use, tuple | list) or len(use) != 2:
        return False
    gives, takes = use
    return (gives is None or _is_axis(gives)) and _is_axis(takes)


def _is_axis(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _type(thing: object) -> str:
    return type(thing).__name__
