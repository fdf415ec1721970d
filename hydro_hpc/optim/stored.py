"""States of torch's optimizers, before anything of them is taken over."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def by_name(
    state: Mapping[str, Any],
    names: Sequence[Sequence[str]],
    *,
    settings: Collection[str],
    who: str,
) -> dict[str, Mapping[str, Any]]:
    """Each parameter's state in a `state_dict()`; `names[group]` are the parameters. ValueError if
    it is of another class or of other groups."""
    if lacking := [key for key in ("state", "param_groups") if key not in state]:
        raise ValueError(f"this is no state_dict() of an optimizer: it has no {lacking[0]}")
    stored = state["param_groups"]
    for each in stored:
        if lacking := [name for name in settings if name not in each]:
            raise ValueError(
                f"this state has no {lacking[0]}, so it is not of {who}: load it into an optimizer "
                "of the class that it is of"
            )
    sizes, own = [len(each["params"]) for each in stored], [len(group) for group in names]
    if sizes != own:
        raise ValueError(f"this state is of groups with {sizes} parameters, not with {own}")
    return {
        name: state["state"][place]
        for each, group in zip(stored, names, strict=True)
        for name, place in zip(group, each["params"], strict=True)
        if state["state"].get(place)
    }


def require_shapes(
    kept: Mapping[str, Mapping[str, Any]],
    shapes: Mapping[str, Sequence[int]],
    tensors: Collection[str],
) -> None:
    """ValueError if a parameter's state is of one of another shape."""
    for name, shape in shapes.items():
        for tensor, value in kept.get(name, {}).items():
            if tensor in tensors and value is not None and list(value.shape) != list(shape):
                raise ValueError(
                    f"{tensor} of {name} has shape {list(value.shape)} in this state, not "
                    f"{list(shape)}: it is of another model"
                )
