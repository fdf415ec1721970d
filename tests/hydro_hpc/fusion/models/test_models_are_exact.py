"""Every model of the zoo trains in a bundle as it would alone, or is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import ExecutorKind, bind
from tests.hydro_hpc.fusion.models.exactness import hold_to_exactness, hold_to_its_slot
from tests.hydro_hpc.fusion.models.registry import ARCHITECTURES, FAMILIES
from tests.hydro_hpc.fusion.models.survey import has_images, survey, table, verdict
from tests.hydro_hpc.fusion.models.trials import double_precision

pytestmark = [
    # What torch says of its own modules: forms that it would rather see replaced.
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning"),
]
BOUND = [name for name, one in ARCHITECTURES.items() if one.refused is None]
OF_IMAGES = [name for name in BOUND if has_images(ARCHITECTURES[name])]
TAKES_VIEWS = ("residual_cnn", ExecutorKind.LOOP)  # that no images with channels last have
EVERY_PAIR = [(name, kind) for name in BOUND for kind in ExecutorKind]


def spoken(value: Any) -> str:
    return str(getattr(value, "value", value))


def with_faults() -> list[Any]:
    """(name, executor kind) of all; with today's faults as failures that are expected."""
    return [
        pytest.param(name, kind, marks=pytest.mark.xfail(strict=True, reason=faults[kind]))
        if kind in (faults := ARCHITECTURES[name].faults)
        else (name, kind)
        for name, kind in EVERY_PAIR
    ]


def without_faults() -> list[Any]:
    return [(name, kind) for name, kind in EVERY_PAIR if kind not in ARCHITECTURES[name].faults]


@pytest.mark.parametrize(("name", "kind"), with_faults(), ids=spoken)
def test_twenty_steps_equal_those_of_separate_models(name: str, kind: ExecutorKind) -> None:
    if kind is ExecutorKind.LOOP or verdict(name).refusals[kind] is None:
        hold_to_exactness(ARCHITECTURES[name], kind)


@pytest.mark.parametrize(("name", "kind"), without_faults(), ids=spoken)
def test_nan_weights_stay_in_their_slot(name: str, kind: ExecutorKind) -> None:
    if verdict(name).refusals[kind] is None:
        hold_to_its_slot(ARCHITECTURES[name], kind)


@pytest.mark.parametrize("name", sorted(OF_IMAGES))
@pytest.mark.parametrize("kind", [ExecutorKind.GROUPED, ExecutorKind.LOOP], ids=spoken)
def test_twenty_steps_with_the_channels_last_do_too(name: str, kind: ExecutorKind) -> None:
    refusal = verdict(name).with_channels_last[kind]
    if (name, kind) == TAKES_VIEWS:
        assert "view size is not compatible" in str(refusal)
    else:
        assert refusal == verdict(name).refusals[kind]
    if refusal is None:
        hold_to_exactness(ARCHITECTURES[name], kind, channels_last=True)


def with_misjudgements() -> list[Any]:
    """All names; with what is refused by mistake as failures that are expected."""
    return [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=one.misjudged))
        if one.misjudged
        else name
        for name in BOUND
        if (one := ARCHITECTURES[name])
    ]


@pytest.mark.parametrize("name", with_misjudgements())
def test_the_loop_runs_it_and_who_does_not_says_why(name: str) -> None:
    refusals = verdict(name).refusals
    assert refusals[ExecutorKind.LOOP] is None
    assert set(refusals) == set(ExecutorKind)
    assert all(reason is None or reason.strip() for reason in refusals.values())


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(BOUND)))
def test_what_no_copy_keeps_is_refused_in_a_sentence(name: str) -> None:
    one = ARCHITECTURES[name]
    with double_precision(seed=1), pytest.raises(FusionError, match=str(one.refused)):
        bind([one.make() for _ in range(2)])


@pytest.mark.parametrize("name", BOUND)
def test_binding_leaves_the_users_models_as_they_are(name: str) -> None:
    assert verdict(name).changed == ()


def test_every_model_has_a_name_of_its_own_and_a_reason_to_be_here() -> None:
    everyone = [one for family in FAMILIES for one in family]
    assert len(ARCHITECTURES) == len(everyone) >= 34
    assert all(one.why.strip() for one in everyone)


def test_the_survey_has_a_line_for_every_executor_of_every_model() -> None:
    lines = table(survey(["mlp", "by_data"])).splitlines()
    assert len(lines) == 2 * len(ExecutorKind)
    assert lines[0].split() == ["mlp", "grouped", "equals", "separate", "models"]
    assert "by_data" in lines[-3]
    assert "cannot be traced" in lines[-3]
