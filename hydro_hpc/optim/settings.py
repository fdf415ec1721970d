"""The settings of an optimizer of a bundle: one value per slot and parameter group.

F slots, G parameter groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hydro_hpc.fusion import resizing
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.resizing import NewSlots
from hydro_hpc.fusion.to_train import to_train
from hydro_hpc.optim.arguments import require_bundle
from hydro_hpc.optim.groups import ParameterGroup, partition
from hydro_hpc.optim.hyperparameters import check_range, over_slots

Change = tuple[int, int, Mapping[str, Any]]  # slot, group, settings


class SlotSettings(ABC):
    """What an optimizer is told, and is told anew while it runs, under the names of torch.

    A setting is one value for all slots or one per slot. `groups` have settings of their own for
    some of the parameters, numbered as in torch: group 0 are the parameters that are in none of
    them, unless all are.
    """

    FLAGS: ClassVar[frozenset[str]] = frozenset({"maximize"})  # settings that are truth values
    TORCH: ClassVar[type[torch.optim.Optimizer]]
    RANGES: ClassVar[Mapping[str, tuple[float, float]]]

    def __init__(
        self, bundle: Bundle, settings: Mapping[str, Any], groups: Sequence[ParameterGroup]
    ) -> None:
        require_bundle(bundle, type(self).__name__)
        self.bundle = bundle
        self._state = bundle.state  # whose slots it has
        self._names = tuple(settings)
        self._groups = partition(bundle.state, groups)
        for group in self._groups:
            self._require_known(group.settings)
        self._adopt(self._per_group(settings))

    def _per_slot(self, settings: Mapping[str, Any], slots: int) -> dict[str, Tensor]:
        """Hyperparameters [slots] by the name under which `hyper` has them."""
        return {name: over_slots(name, value, slots) for name, value in settings.items()}

    def _check(self, hyper: Mapping[str, Tensor]) -> None:
        """ValueError if a slot's hyperparameters [slots, G] cannot be."""
        check_range(hyper, self.RANGES)

    def _torch_settings(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """One slot's and group's hyperparameters as torch's constructor takes them."""
        return dict(numbers)

    @property
    def hyper(self) -> dict[str, Tensor]:
        """[slots] float64 copies of all hyperparameters of group 0 by name; `set` changes them."""
        return {name: values[:, 0].clone() for name, values in self._hyper.items()}

    def settings(self) -> list[list[dict[str, Any]]]:
        """Of each slot and in it of each group, under the names and in the types of torch."""
        return [[self._torch_settings(own) for own in groups] for groups in self._numbers()]

    def _numbers(self) -> list[list[dict[str, Any]]]:
        """The same under the names of `hyper`."""
        lists = {name: values.tolist() for name, values in self._hyper.items()}
        return [
            [
                {n: bool(x[slot][g]) if n in self.FLAGS else x[slot][g] for n, x in lists.items()}
                for g in range(len(self._groups))
            ]
            for slot in range(self.bundle.slots)
        ]

    def torch_twin(self, slot: int) -> torch.optim.Optimizer:
        """A torch optimizer with the slot's settings, over one number per group."""
        groups = self.settings()[slot]
        make: Callable[..., torch.optim.Optimizer] = self.TORCH
        return make([{"params": [nn.Parameter(torch.zeros(1))], **group} for group in groups])

    @abstractmethod
    def take_slots(self, new: NewSlots) -> None:
        """Called by the bundle's `grow` and `shrink`."""

    def refuse_left_behind(self) -> None:
        """FusionError if the bundle was resized without this optimizer."""
        resizing.refuse_left_behind(self, state=self._state)

    @to_train()
    def set(self, slot: int, *, group: int | None = None, **settings: Any) -> None:
        """Gives one slot other hyperparameters, such as a schedule's next learning rate.

        They are one group's, or as the constructor's: of all groups that have none of their own.
        ValueError if one is unknown or out of range; then none is changed.
        """
        self._require_known(settings)
        if group is not None:
            return self.change([(slot, group, settings)])
        own = [{n: x for n, x in settings.items() if n not in g.settings} for g in self._groups]
        for name in settings:
            if not any(name in each for each in own):
                raise ValueError(f"every group has a {name} of its own: say of which, group=")
        return self.change([(slot, number, each) for number, each in enumerate(own)])

    def change(self, changes: Iterable[Change]) -> None:
        """Sets hyperparameters of several slots and groups at once: all, or none and ValueError."""
        self.refuse_left_behind()
        hyper = {name: values.clone() for name, values in self._hyper.items()}
        for slot, group, settings in changes:
            self._require_known(settings)
            if not 0 <= group < len(self._groups):
                raise ValueError(f"group {group} of {len(self._groups)} parameter groups")
            for name, value in self._per_slot(settings, 1).items():
                hyper[name][slot, group] = value[0]
        self._adopt(hyper)

    def _per_group(self, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """Hyperparameters [slots, G] by name."""
        columns = [
            self._per_slot({**settings, **g.settings}, self.bundle.slots) for g in self._groups
        ]
        return {name: torch.stack([c[name] for c in columns], dim=1) for name in columns[0]}

    def _require_known(self, settings: Mapping[str, Any]) -> None:
        for name in settings:
            if name not in self._names:
                kind, known = type(self).__name__, ", ".join(self._names)
                raise ValueError(f"{name} is no setting of {kind}: it has {known}")

    def _adopt(self, hyper: dict[str, Tensor]) -> None:
        """Takes hyperparameters [slots, G] if they can be, and what follows from them."""
        self._check(hyper)
        self._hyper = hyper
        self._used = {name for name, values in hyper.items() if bool(values.any())}
