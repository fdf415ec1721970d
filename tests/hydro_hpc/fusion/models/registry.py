"""Every model of the zoo, by name."""

from __future__ import annotations

from typing import Final

from tests.hydro_hpc.fusion.models import (
    attention,
    calls,
    convolutions,
    copies,
    gradients,
    mlps,
    recurrent,
    routing,
    stateful,
    torchvision_style,
    traps,
)
from tests.hydro_hpc.fusion.models.architecture import Architecture

FAMILIES: Final = (
    mlps.ALL,
    convolutions.ALL,
    torchvision_style.ALL,
    attention.ALL,
    recurrent.ALL,
    routing.ALL,
    gradients.ALL,
    stateful.ALL,
    calls.ALL,
    traps.ALL,
    copies.ALL,
)
ARCHITECTURES: Final[dict[str, Architecture]] = {
    one.name: one for family in FAMILIES for one in family
}
