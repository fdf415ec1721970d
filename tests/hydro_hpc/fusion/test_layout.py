"""Images with their channels last in memory: the same values, and who gets them so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.fusion import ExecutorKind, bind, layout
from hydro_hpc.fusion.choice import Way, Wish, Workshop, choose, refusals_of
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.sample import Sample

SLOTS = 3
LayOut = Callable[[InputForm], InputForm]
BOTH = [layout.within_slots, layout.across_slots]


def laid_out(x: Tensor, lay_out: LayOut) -> Tensor:
    return lay_out(InputForm.of((x,), {})).tensors[0]


@pytest.mark.parametrize("shape", [(3, 5, 4, 6, 7), (3, 5, 1, 6, 7), (3, 1, 4, 2, 6, 7)])
@pytest.mark.parametrize("lay_out", BOTH)
def test_images_have_the_same_values_with_their_channels_last(
    lay_out: LayOut, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    found = laid_out(x, lay_out)
    assert torch.equal(found, x)
    assert found.stride(2) == 1
    slots_lie_side_by_side = found.stride(0) == shape[2]
    assert slots_lie_side_by_side is (lay_out is layout.across_slots)
    assert found.stride(-1) == (shape[2] * shape[0] if slots_lie_side_by_side else shape[2])


@pytest.mark.parametrize("lay_out", BOTH)
def test_what_are_no_images_stays_as_it_is(lay_out: LayOut) -> None:
    for x in (torch.randn(3, 4, 5), torch.zeros(3, 4, 2, 6, 6, dtype=torch.int64)):
        assert laid_out(x, lay_out) is x


def test_a_batch_that_all_slots_share_is_laid_out_once() -> None:
    x = torch.randn(4, 2, 6, 7).expand(SLOTS, 4, 2, 6, 7)
    found = laid_out(x, layout.across_slots)
    assert torch.equal(found, x)
    assert found.stride(0) == 0
    assert found.stride(2) == 1


def test_other_arguments_keep_their_places() -> None:
    x, y = torch.randn(SLOTS, 2, 1, 4, 4), torch.randn(SLOTS, 2)
    form = layout.within_slots(InputForm.of((y, 7), {"images": [x, None]}))
    assert form.args == (y, 7)
    assert torch.equal(form.kwargs["images"][0], x)
    assert form.kwargs["images"][1] is None


def small(*middle: nn.Module) -> nn.Sequential:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return nn.Sequential(nn.Conv2d(2, 4, 3), *middle, *head).double()


def test_masks_drawn_in_the_order_of_memory_are_noticed() -> None:
    """Dropout draws as its input lies, so unfused trials have other masks."""
    models = [small(nn.Dropout(0.5)) for _ in range(SLOTS)]
    sample = Sample(args=(torch.randn(SLOTS, 4, 2, 7, 7).double(),), kwargs={})
    ways = [
        Way(kind=kind, channels_last=True) for kind in (ExecutorKind.GROUPED, ExecutorKind.LOOP)
    ]
    for _, refusal in refusals_of(Workshop(models, range(SLOTS), sample), ways):
        assert "differs from separate models" in str(refusal)


class Watching(nn.Module):
    """Notes whether its images come with their channels last, and raises for `poison`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_last: list[bool] = []
        self.poison = float("nan")

    def forward(self, x: Tensor) -> Tensor:
        self.is_last.append(x.is_contiguous(memory_format=torch.channels_last))
        if bool((x == self.poison).any()):
            raise ValueError("poisoned")
        return x * 2.0


def watching() -> nn.Module:
    return nn.Sequential(Watching(), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(100, 2)).double()


def test_a_loop_gives_models_their_images_so_but_fails_slots_on_plain_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = bind([watching() for _ in range(SLOTS)], executor=ExecutorKind.LOOP)
    wish = Wish(way=Way(kind=ExecutorKind.LOOP, channels_last=True))
    monkeypatch.setattr(bundle, "_wish", wish)
    x = torch.randn(SLOTS, 4, 2, 7, 7).double()
    bundle(x)
    assert bundle.report.channels_last
    watches = [model.get_submodule("0").is_last for model in bundle.state.slot_models]
    assert [watch[-1] for watch in watches] == [True] * SLOTS
    bundle.state.slot_models[1].get_submodule("0").poison = float(x[1, 2, 0, 3, 3])
    bundle(x)
    assert list(bundle.failures) == [1]
    assert [watch[-1] for watch in watches] == [False] * SLOTS
    bundle(x)
    assert [watch[-1] for watch in watches] == [True, False, True]


def test_both_layouts_are_tried_where_there_are_images() -> None:
    x = torch.randn(SLOTS, 4, 2, 7, 7).double()
    workshop = Workshop([small() for _ in range(SLOTS)], range(SLOTS), Sample(args=(x,), kwargs={}))
    _, report = choose(workshop, Wish())
    names = {candidate.name for candidate in report.candidates}
    assert {"grouped", "grouped, channels last", "loop", "loop, channels last"} <= names
    assert "vmap" not in names
    assert all(candidate.refusal is None for candidate in report.candidates)
