"""What the constructors here take, where torch's take something else."""

from __future__ import annotations

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.bundle import Bundle


def require_bundle(given: object, who: str) -> None:
    """FusionError unless it is a bundle, and not its parameters, as torch would have it."""
    if not isinstance(given, Bundle):
        kind = type(given).__name__
        raise FusionError(f"{who} was given a {kind}: give it the bundle itself, made by bind")


def require_slot(bundle: Bundle, slot: int) -> None:
    """IndexError unless the bundle has this slot; none is counted from the end."""
    if not 0 <= slot < bundle.slots:
        raise IndexError(f"slot {slot} of a bundle of {bundle.slots}")
