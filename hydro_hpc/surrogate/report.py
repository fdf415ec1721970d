"""What shrinking a model did: its widths, what stayed and why, what no rule covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hydro_hpc.surrogate.axes import Axes

NOT_CALLED: Final = (
    "factors on attention's logits, products of activations, weights in buffers and whether "
    "readouts are called were not looked at, since the model was not called"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Axes of one size that shrink together; `paths` are the modules that have them, `by` is the
    ratio that was asked for.
    """

    paths: tuple[str, ...]
    target: int
    size: int
    by: float

    def __str__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        actual = self.target / self.size
        rounded = "" if actual == self.by else f", by {actual:.4g} where {self.by:g} was asked for"
        return f"{self.paths[0]}{more}: {self.target} -> {self.size}{rounded}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Axes that stay; `why` says what keeps them."""

    paths: tuple[str, ...]
    size: int
    why: str

    def __str__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0]}{more}: {self.size} stays, {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`str` has a line for each."""

    widths: tuple[Width, ...] = ()
    kept: tuple[Kept, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(str(line) for line in (*self.widths, *self.kept, *self.warnings))


def widths_of(axes: Mapping[str, Axes], by: float) -> tuple[Width, ...]:
    """Of parameters' axes by name: those of one size in the target and in the surrogate are one."""
    paths: dict[tuple[int, int], dict[str, None]] = {}
    for name, own in axes.items():
        for axis in own:
            if axis.size != axis.target:
                paths.setdefault((axis.target, axis.size), {})[name] = None
    return tuple(
        Width(paths=tuple(names), target=target, size=size, by=by)
        for (target, size), names in paths.items()
    )
