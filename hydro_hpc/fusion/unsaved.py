"""A module that is no place to keep values: it is not saved, loaded, copied, moved or converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import nn

from hydro_hpc.errors import FusionError


class UnsavedModule(nn.Module):
    """Refuses each of these with what to do in its place: the values are its models'."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a bundle is saved trial by trial."""
        del args, kwargs
        raise FusionError("a bundle has no state_dict: save each bundle.unbind(slot).state_dict()")

    load_state_dict = state_dict

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise FusionError(
            "a bundle cannot be copied or pickled: bind its models again, each bundle.unbind(slot)"
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        del fn, recurse
        raise FusionError("a bundle stays as it is: move or convert the models, then bind them")
