"""The settings of an optimizer of a bundle: one value per slot and parameter group.

F slots, G parameter groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from hydro_hpc.fusion import resizing
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.resizing import NewSlots
from hydro_hpc.fusion.to_train import to_train
from hydro_hpc.optim.arguments import require_bundle, require_slot
from hydro_hpc.optim.groups import ParameterGroup, partition
from hydro_hpc.optim.hyperparameters import check_flags, check_range, over_slots
from hydro_hpc.optim.scales import scaled, split_by_scale
from hydro_hpc.surrogate.rules import Rules, Scale, refuse_unlike

Change = tuple[int, int, Mapping[str, Any]]  # slot, group, settings
PARAMETERS: Final = "params"  # of a torch optimizer's group


class SlotSettings(ABC):
    """What an optimizer is told, and is told anew while it runs, under the names of torch.

    A setting is one value for all slots or one per slot. `groups` have settings of their own for
    some of the parameters, numbered as in torch: group 0 are the parameters that are in none of
    them, unless all are.

    With the `rules` of surrogates, settings are the target's throughout: what is given, to
    schedules too, and what is read. Steps, and states in torch's format, have `lr` and
    `weight_decay` times the factors of each group; a group is split where these differ.
    """

    FLAGS: ClassVar[frozenset[str]] = frozenset({"maximize"})  # settings that are truth values
    TORCH: ClassVar[type[torch.optim.Optimizer]]
    RANGES: ClassVar[Mapping[str, tuple[float, float]]]

    def __init__(
        self,
        bundle: Bundle,
        settings: Mapping[str, Any],
        groups: Sequence[ParameterGroup],
        rules: Rules | None,
    ) -> None:
        require_bundle(bundle, type(self).__name__)
        self.bundle = bundle
        self._state = bundle.state  # whose slots it has
        self._names = tuple(settings)
        self._groups = partition(bundle.state, groups)
        self._scales = [Scale()] * len(self._groups)
        if rules is not None:
            optimizer = self.TORCH.__name__
            self._groups, self._scales = split_by_scale(self._groups, rules, optimizer)
            refuse_unlike(bundle.state.slot_models[0], rules)
        for group in self._groups:
            self._require_known(group.settings)
        hyper = self._per_group(settings)
        self._check(hyper, {name: torch.ones_like(x).bool() for name, x in hyper.items()})
        self._made = hyper  # where the next trial of a slot begins
        self._notes = [self._no_notes() for _ in range(bundle.slots)]
        self._adopt(hyper)
        self._plain = frozenset(self.torch_twin(0).param_groups[0])  # what no scheduler has added

    def _per_slot(self, settings: Mapping[str, Any], slots: int) -> dict[str, Tensor]:
        """Hyperparameters [slots] by the name under which `hyper` has them."""
        return {name: over_slots(name, value, slots) for name, value in settings.items()}

    def _check(self, hyper: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        """ValueError if a slot's hyperparameters [slots, G] cannot be, where they were `given`."""
        check_range(hyper, self.RANGES, given)
        check_flags(hyper, self.FLAGS)

    def _torch_settings(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """One slot's and group's hyperparameters as torch's constructor takes them."""
        return dict(numbers)

    @property
    def hyper(self) -> dict[str, Tensor]:
        """[slots] float64 copies of all hyperparameters of group 0 by name; `set` changes them."""
        return {name: values[:, 0].clone() for name, values in self._given.items()}

    def settings(self) -> list[list[dict[str, Any]]]:
        """Of each slot and in it of each group, under the names and in the types of torch."""
        return [
            [self._torch_settings(own) for own in groups]
            for groups in self._numbers_of(self._given)
        ]

    def _numbers(self) -> list[list[dict[str, Any]]]:
        """The same as a step uses them, under the names of `hyper`."""
        return self._numbers_of(self._hyper)

    def _numbers_of(self, hyper: Mapping[str, Tensor]) -> list[list[dict[str, Any]]]:
        lists = {name: values.tolist() for name, values in hyper.items()}
        return [
            [
                {n: bool(x[slot][g]) if n in self.FLAGS else x[slot][g] for n, x in lists.items()}
                for g in range(len(self._groups))
            ]
            for slot in range(self.bundle.slots)
        ]

    def torch_twin(self, slot: int) -> torch.optim.Optimizer:
        """A torch optimizer with the slot's settings, over one number per group."""
        make: Callable[..., torch.optim.Optimizer] = self.TORCH
        twin = make([{PARAMETERS: [nn.Parameter(torch.zeros(1))]} for _ in self._groups])
        for group, own in zip(twin.param_groups, self.settings()[slot], strict=True):
            group.update(own)  # not checked: a schedule may have taken them anywhere
        return twin

    def notes(self, slot: int) -> list[dict[str, Any]]:
        """What schedulers have written into each of the slot's groups beside the settings, such as
        `initial_lr` and OneCycleLR's `max_lr`."""
        return [dict(notes) for notes in self._notes[slot]]

    def take_notes(self, slot: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Keeps those that are in these groups of a torch optimizer, beside what there is."""
        self._notes[slot] = [
            kept | {name: x for name, x in group.items() if name not in self._plain}
            for kept, group in zip(self._notes[slot], groups, strict=True)
        ]

    def _no_notes(self) -> list[dict[str, Any]]:
        return [{} for _ in self._groups]

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
        self.change(self._changes(slot, group, settings))

    def _changes(self, slot: int, group: int | None, settings: Mapping[str, Any]) -> list[Change]:
        """What `set` asks for, one change per group."""
        self._require_known(settings)
        if group is not None:
            return [(slot, group, settings)]
        own = [{n: x for n, x in settings.items() if n not in g.settings} for g in self._groups]
        for name in settings:
            if not any(name in each for each in own):
                raise ValueError(f"every group has a {name} of its own: say of which, group=")
        return [(slot, number, each) for number, each in enumerate(own)]

    def change(self, changes: Iterable[Change]) -> None:
        """Sets hyperparameters of several slots and groups at once: all, or none and ValueError."""
        hyper, given = self._changed(self._given, changes)
        self._check(hyper, given)
        self._adopt(hyper)

    def follow(self, changes: Iterable[Change]) -> None:
        """The same with what schedulers and stored states say: in any range, as torch has it."""
        self._adopt(self._changed(self._given, changes)[0])

    def _changed(
        self, before: Mapping[str, Tensor], changes: Iterable[Change]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Hyperparameters [slots, G] after these changes, and which of them were given."""
        self.refuse_left_behind()
        hyper = {name: values.clone() for name, values in before.items()}
        given = {name: torch.zeros_like(values).bool() for name, values in before.items()}
        for slot, group, settings in changes:
            require_slot(self.bundle, slot)
            self._require_known(settings)
            if not 0 <= group < len(self._groups):
                raise ValueError(f"group {group} of {len(self._groups)} parameter groups")
            for name, value in self._per_slot(settings, 1).items():
                hyper[name][slot, group] = value[0]
                given[name][slot, group] = True
        return hyper, given

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
        """Takes hyperparameters [slots, G] as they are given, and what follows from them."""
        self._given, self._hyper = hyper, scaled(hyper, self._scales)
        self._used = {name for name, values in hyper.items() if bool(values.any())}
