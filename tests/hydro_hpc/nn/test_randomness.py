"""Random streams are functions of (trial seed, step, call) and of nothing else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hydro_hpc.fusion import Bundle, ExecutorKind, bind, trial_stream
from hydro_hpc.nn.randomness import SlotStreams, stream_key

NUMBERS = st.integers(min_value=0, max_value=2**40)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, st.booleans()), min_size=2, unique=True))
def test_no_two_calls_share_a_stream(calls: list[tuple[int, int, int, bool]]) -> None:
    keys = {stream_key(seed, step, call, training=t) for seed, step, call, t in calls}
    assert len(keys) == len(calls)
    assert all(0 <= key < 2**63 for key in keys)


def test_a_stream_leaves_the_global_one_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with trial_stream(1, 2):
        inside = torch.rand(3)
    with trial_stream(1, 2):
        again = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(inside, again)


def masks(seeds: list[int], kind: ExecutorKind, calls: int = 2, steps: int = 2) -> list[Tensor]:
    """[steps, calls, batch, width] of ones through dropout, for each slot."""
    bundle = bind(
        [nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.Linear(1, 1)) for _ in seeds],
        example=torch.ones(4, 1),
        seeds=seeds,
        executor=kind,
    )
    freeze_to_identity(bundle)
    rows = []
    for _ in range(steps):
        rows.append(torch.stack([bundle.shared(torch.ones(64, 1)) for _ in range(calls)], dim=1))
        bundle.stepped()
    assert bundle.report.executor is kind
    return list(torch.stack(rows, dim=1).detach().unbind(0))


def freeze_to_identity(bundle: Bundle) -> None:
    with torch.no_grad():
        for name, tensor in bundle.state.stacked.items():
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)


def test_masks_are_the_same_whatever_f_slot_neighbours_and_executor() -> None:
    alone = masks([42], ExecutorKind.GROUPED)[0]
    for kind in ExecutorKind:
        assert torch.equal(masks([7, 42, 9], kind)[1], alone)
        assert torch.equal(masks([42, 1], kind)[0], alone)
    assert not torch.equal(masks([43], ExecutorKind.GROUPED)[0], alone)
    assert len({tuple(row.flatten().tolist()) for row in alone.flatten(0, 1)}) == 4


def test_masks_are_those_of_the_unfused_trial() -> None:
    found = masks([42], ExecutorKind.GROUPED)[0]
    for step in range(2):
        for call in range(2):
            with trial_stream(42, step, call):
                expected = nn.functional.dropout(torch.ones(64, 1), 0.5)
            assert torch.equal(found[step, call], expected)


def test_each_slot_has_its_own_probability() -> None:
    models = [nn.Sequential(nn.Dropout(p), nn.Linear(1, 1)) for p in (0.1, 0.9)]
    bundle = bind(models, example=torch.ones(4, 1), executor=ExecutorKind.GROUPED)
    assert bundle.report.executor is ExecutorKind.GROUPED
    freeze_to_identity(bundle)
    kept = (bundle.shared(torch.ones(1000, 1)) != 0).double().mean(dim=(1, 2))
    assert 0.85 < kept[0] < 0.95
    assert 0.05 < kept[1] < 0.15
    newcomer = nn.Sequential(nn.Dropout(0.0), nn.Linear(1, 1))
    bundle.replace(1, newcomer, seed=4)
    freeze_to_identity(bundle)
    assert torch.equal(bundle.shared(torch.ones(9, 1))[1], torch.ones(9, 1))


def test_a_new_trials_first_call_is_its_own_first() -> None:
    streams = SlotStreams([1, 2])
    for _ in range(2):
        streams.begin_call(training=True)
    streams.restart(1, seed=7)
    streams.begin_call(training=True)
    assert streams.key(0) == stream_key(1, 0, 2, training=True)
    assert streams.key(1) == stream_key(7, 0, 0, training=True)
    moved = streams.of_slots([1, 0])
    moved.begin_call(training=True)
    assert moved.key(0) == stream_key(7, 0, 1, training=True)


def test_idle_slots_do_not_move_on() -> None:
    streams = SlotStreams([1, 1])
    streams.advance([True, False])
    assert streams.steps == [1, 0]
    streams.restart(0, seed=6, step=12)
    assert (streams.seeds, streams.steps) == ([6, 1], [12, 0])
