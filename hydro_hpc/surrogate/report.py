"""What shrinking a model did: its widths, what stayed and why, what no rule covers."""

from __future__ import annotations

from dataclasses import dataclass


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
