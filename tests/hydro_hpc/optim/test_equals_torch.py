"""Every optimizer equals torch's in every slot, each slot with its own settings, in double
precision to 1e-12 over 100 steps of given gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hydro_hpc.fusion import ExecutorKind
from hydro_hpc.optim import adam
from tests.hydro_hpc.optim.settings_per_slot import SETTINGS
from tests.hydro_hpc.optim.torch_oracle import (
    EXACT,
    SLOTS,
    Own,
    assert_equal,
    bundle_of,
    give_gradients,
    models,
    slot_optimizer,
    step_both,
    torch_optimizers,
)


@pytest.mark.parametrize("kind", list(ExecutorKind))
@pytest.mark.parametrize(("name", "own"), SETTINGS)
def test_a_hundred_steps(name: str, own: Own, kind: ExecutorKind) -> None:
    assert_equal(*step_both(name, own, kind, steps=100))


@pytest.mark.parametrize(("name", "own"), SETTINGS)
def test_absent_gradients_leave_parameters_and_state_alone(name: str, own: Own) -> None:
    assert_equal(*step_both(name, own, ExecutorKind.LOOP, steps=100, absent=True))


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(("name", "own"), [each for each in SETTINGS if "Adam" in each[0]])
def test_adam_without_torchs_kernel_is_equal_too(
    name: str, own: Own, absent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adam, "kernel_for", lambda _moments, _name: None)
    kind = ExecutorKind.LOOP if absent else ExecutorKind.GROUPED
    assert_equal(*step_both(name, own, kind, steps=100, absent=absent))


@pytest.mark.parametrize(("name", "own"), SETTINGS)
def test_state_goes_to_torch_and_back(name: str, own: Own) -> None:
    """A trial leaves its bundle, trains alone, and comes back into another slot."""
    nets = models()
    bundle = bundle_of(nets, ExecutorKind.GROUPED)
    ours, theirs = slot_optimizer(name, own, bundle), torch_optimizers(name, own, nets)
    step = 0
    for _ in range(5):
        for _ in range(3):
            give_gradients(bundle, nets, step)
            step += 1
            ours.step()
            for optimizer in theirs:
                optimizer.step()
        alone = [bundle.unbind(slot) for slot in range(SLOTS)]
        theirs = torch_optimizers(name, own, alone)
        for slot, optimizer in enumerate(theirs):
            optimizer.load_state_dict(ours.slot_state(slot))
        nets = alone
        for slot, net in enumerate(nets):
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            theirs[slot].step()
            bundle.replace(slot, net, seed=slot)
            ours.load_slot_state(slot, theirs[slot].state_dict())
    assert_equal(bundle, nets)


@pytest.mark.parametrize(("name", "own"), SETTINGS)
def test_the_state_has_torchs_own_form(name: str, own: Own) -> None:
    nets = models()
    bundle = bundle_of(nets, ExecutorKind.GROUPED)
    ours, theirs = slot_optimizer(name, own, bundle), torch_optimizers(name, own, nets)
    give_gradients(bundle, nets, 0)
    ours.step()
    for slot, optimizer in enumerate(theirs):
        optimizer.step()
        found, expected = ours.slot_state(slot), optimizer.state_dict()
        assert found["param_groups"] == expected["param_groups"]
        moments = {k: v for k, v in expected["state"].items() if set(v.values()) != {None}}
        assert found["state"].keys() == moments.keys()
        for number, own_state in moments.items():
            assert found["state"][number].keys() == own_state.keys()
            for key, value in own_state.items():
                torch.testing.assert_close(found["state"][number][key], value, **EXACT)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_settings(name: str, data: st.DataObject) -> None:
    def draw(low: float, high: float) -> list[float]:
        return [data.draw(st.floats(low, high)) for _ in range(SLOTS)]

    own: Own = {"lr": draw(0, 1), "weight_decay": draw(0, 0.5)}
    own["maximize"] = [data.draw(st.booleans()) for _ in range(SLOTS)]
    if name == "SGD":
        own |= {"momentum": draw(0, 1), "dampening": draw(0, 1)}
    elif name == "RMSprop":
        own |= {"momentum": draw(0, 1), "alpha": draw(0, 1), "eps": draw(1e-8, 1)}
    elif name == "Adagrad":
        own |= {"lr_decay": draw(0, 1), "initial_accumulator_value": draw(0, 1)}
    else:
        own |= {"betas": list(zip(draw(0, 0.99), draw(0, 0.99), strict=True)), "eps": draw(1e-8, 1)}
    bundle, nets = step_both(name, own, ExecutorKind.GROUPED, steps=5)
    for slot, net in enumerate(nets):
        for key, value in bundle.unbind(slot).state_dict().items():
            torch.testing.assert_close(value, net.state_dict()[key], rtol=1e-10, atol=1e-12)
