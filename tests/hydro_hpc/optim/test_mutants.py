"""The comparison with torch sees a setting that does nothing, or that acts elsewhere."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from torch import Tensor

from hydro_hpc import optim
from hydro_hpc.fusion import ExecutorKind
from hydro_hpc.optim import adam
from hydro_hpc.optim.moments import Moments
from tests.hydro_hpc.optim.settings_per_slot import SETTINGS
from tests.hydro_hpc.optim.torch_oracle import GROUPS, SLOTS, Own, assert_equal, step_both


def without(name: str, setting: str) -> Any:
    """A mutant: slots that ask for `setting` are stepped as if they did not."""
    kind = getattr(optim, name)

    def adopt(self: optim.SlotOptimizer, hyper: dict[str, Tensor]) -> None:
        kept = hyper[setting]
        own_adopt(self, hyper | {setting: torch.zeros_like(kept)})

    own_adopt = kind._adopt
    return "_adopt", adopt


def of_first_group(self: Moments, setting_FG: Tensor) -> Tensor:
    """A mutant: all parameters have the settings of the first group."""
    del self
    return setting_FG[:, :1]


def neighbours_setting(self: Moments, setting_FG: Tensor) -> Tensor:
    """A mutant: every slot has the settings of its neighbour."""
    return own_of(self, setting_FG).roll(1, 0)


own_of = Moments.of
GROUPED_BY: Final = [(name, own) for name, own in SETTINGS if GROUPS in own]


@pytest.mark.parametrize(
    ("name", "own", "setting"),
    [
        (name, own, setting)
        for name, own in SETTINGS
        for setting in ("maximize", "amsgrad", "centered", "momentum", "lr_decay")
        if setting in own and len(own) > 5
    ],
)
def test_a_setting_that_did_nothing_would_be_seen(
    name: str, own: Own, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting == "momentum" and "nesterov" in own:
        own = own | {"nesterov": [False] * SLOTS}
    monkeypatch.setattr(getattr(optim, name), *without(name, setting))
    with pytest.raises(AssertionError, match="not close"):
        assert_equal(*step_both(name, own, ExecutorKind.GROUPED, steps=3))


@pytest.mark.parametrize("mutant", [of_first_group, neighbours_setting])
@pytest.mark.parametrize(("name", "own"), GROUPED_BY)
def test_a_groups_settings_elsewhere_would_be_seen(
    name: str, own: Own, mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adam, "kernel_for", lambda _moments, _name: None)
    monkeypatch.setattr(Moments, "of", mutant)
    with pytest.raises(AssertionError, match="not close"):
        assert_equal(*step_both(name, own, ExecutorKind.GROUPED, steps=3))


@pytest.mark.parametrize("shift", ["slot", "group"])
def test_a_kernel_with_a_neighbours_settings_would_be_seen(
    shift: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(self: optim.SlotOptimizer) -> list[list[dict[str, Any]]]:
        found = numbers(self)
        if shift == "slot":
            return found[1:] + found[:1]
        return [groups[1:] + groups[:1] for groups in found]

    numbers = optim.AdamW._numbers
    [own] = [own for name, own in GROUPED_BY if name == "AdamW"]
    monkeypatch.setattr(optim.AdamW, "_numbers", shifted)
    with pytest.raises(AssertionError, match="not close"):
        assert_equal(*step_both("AdamW", own, ExecutorKind.GROUPED, steps=3))
