"""Which axes of a parameter give and which take, by the module that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import nn

from hydro_hpc.surrogate.weight_norm import Part, Source, owner_of, source_of

OutIn = tuple[int, int]  # the axes of a weight that give and take
RawUse = tuple[int | None, int]  # of a raw parameter; a vector that is summed over gives no axis
Uses = Mapping[str, RawUse | None]  # by full name; None is added or multiplied value by value

# Convolutions transposed have them the other way round.
OUT_IN: Final = (0, 1)
IN_OUT: Final = (1, 0)
CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TABLES: Final = (nn.Embedding, nn.EmbeddingBag)
RECURRENT: Final = (nn.RNNBase, nn.RNNCellBase)
WEIGHTS: Final[tuple[tuple[tuple[type[nn.Module], ...], str, OutIn], ...]] = (
    ((nn.Linear, nn.Bilinear, *CONVOLUTIONS), "weight", OUT_IN),
    (TRANSPOSED, "weight", IN_OUT),
    (TABLES, "weight", IN_OUT),
    (RECURRENT, "weight_", OUT_IN),
    ((nn.MultiheadAttention,), "in_proj_weight", OUT_IN),
    ((nn.MultiheadAttention,), "q_proj_weight", OUT_IN),
    ((nn.MultiheadAttention,), "k_proj_weight", OUT_IN),
    ((nn.MultiheadAttention,), "v_proj_weight", OUT_IN),
)
CONTAINERS: Final = (
    nn.Module,
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.ParameterList,
    nn.ParameterDict,
)
DECLARED: Final = ("weight", "bias", "in_proj_", "q_proj_", "k_proj_", "v_proj_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a parameter is used: the path of its module, and its name there."""

    path: str
    module: nn.Module
    name: str

    @property
    def full_name(self) -> str:
        return f"{self.path}.{self.name}" if self.path else self.name

    @property
    def class_name(self) -> str:
        return type(self.module).__name__

    @property
    def source(self) -> Source | None:
        return source_of(self.module, self.name)

    @property
    def is_table(self) -> bool:
        """Says whether its rows are looked up."""
        return isinstance(self.module, TABLES)

    @property
    def is_of_torch(self) -> bool:
        """Says whether torch's own module declares it, so that how it is used is known."""
        base = next(cls for cls in type(self.module).__mro__ if _is_torchs(cls))
        return base not in CONTAINERS and self._weight_name.startswith(DECLARED)

    @property
    def out_in(self) -> OutIn | None:
        """The axes of a weight that give and take; None of what is no weight."""
        if self.source is not None and self.source.part is Part.GAIN:
            return None
        for classes, name, out_in in WEIGHTS:
            if isinstance(self.module, classes) and self._weight_name.startswith(name):
                return out_in
        return None

    @property
    def _weight_name(self) -> str:
        return self.name if self.source is None else self.source.weight


def places_of(model: nn.Module) -> dict[str, list[Place]]:
    """By first name, all places of every parameter; a module that is used twice is one place."""
    first: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
    places: dict[str, list[Place]] = {name: [] for name in first.values()}
    for path, module in model.named_modules():
        owner_path, owner = owner_of(model, path, module)
        inside = path.removeprefix(owner_path).removeprefix(".") if owner is not module else ""
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            place = Place(
                path=owner_path, module=owner, name=f"{inside}.{name}" if inside else name
            )
            places[first[id(parameter)]].append(place)
    return places


def _is_torchs(cls: type) -> bool:
    """But for the class that a parametrization puts over the user's."""
    return cls.__module__.startswith("torch.") and cls.__module__ != "torch.nn.utils.parametrize"
