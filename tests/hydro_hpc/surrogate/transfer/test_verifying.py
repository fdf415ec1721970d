"""Candidates of real small studies, trained on their targets."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hydro_hpc.errors import StudyError
from hydro_hpc.study import Study
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.loading import load_study
from hydro_hpc.surrogate import Narrow
from hydro_hpc.surrogate.transfer.records import Records, known_records
from hydro_hpc.surrogate.transfer.standing import read_standing
from hydro_hpc.surrogate.transfer.verifying import Progress, chosen, records_of, verify
from tests.hydro_hpc.surrogate.transfer.conftest import RunStudy, start

EPOCHS = 3


def open_study(path: Path) -> tuple[Study, StudyFolder]:
    study = load_study(path)
    return study, StudyFolder(path.parent, study.name)


def never() -> None:
    pytest.fail("the study does not run: there is nothing to wait for")


def trained(progress: list[Progress]) -> list[tuple[int, int]]:
    """(trial, epochs that it has come) of each step."""
    return [(p.record.number, len(p.record.values)) for p in progress if p.record is not None]


def test_the_best_are_trained_on_the_target_as_if_alone(run_study: RunStudy) -> None:
    study, folder = open_study(run_study())
    steps = list(verify(study, folder, count=2, wait=never))
    best, second, *_ = read_standing(folder, study.description).candidates
    assert trained(steps) == [(c.number, e) for c in (best, second) for e in (1, 2, 3)]
    records = known_records(folder.targets)
    for candidate in (best, second):  # without a surrogate a model is its own target
        assert records[candidate.number].values[-1] == candidate.value
        assert records[candidate.number].state == "complete"
    assert chosen(steps[-1].standing, records, study.direction) == (best, best.value)


def test_a_verification_goes_on_where_it_was_killed(run_study: RunStudy) -> None:
    study, folder = open_study(run_study())
    first = verify(study, folder, count=1, wait=never)
    assert next(first).begins is not None
    next(first)
    first.close()
    again = list(verify(study, folder, count=1, wait=never))
    best = read_standing(folder, study.description).candidates[0]
    assert trained(again) == [(best.number, 2), (best.number, 3)]
    assert known_records(folder.targets)[best.number].values[-1] == best.value
    assert list(verify(study, folder, count=1, wait=never)) == []


def test_what_was_reached_in_another_horizon_does_not_count(run_study: RunStudy) -> None:
    study, folder = open_study(run_study())
    study.surrogate = Narrow(by=2, target_epochs=2)
    list(verify(study, folder, count=1, wait=never))
    study.surrogate = Narrow(by=2, target_epochs=4)
    first = verify(study, folder, count=1, wait=never)
    assert next(first).records == {}
    assert trained([next(first)])[0][1] == 1
    first.close()
    study.surrogate = None
    longer = list(verify(study, folder, count=1, wait=never))  # nor what was left in between
    assert [epoch for _, epoch in trained(longer)] == [1, 2, 3]
    study.surrogate = Narrow(by=2, target_batch_size=8)
    assert not records_of(study, longer[-1].standing, folder.targets)


def test_what_another_model_reached_does_not_count(run_study: RunStudy) -> None:
    path = run_study(run=0, before="from hydro_hpc.surrogate import Narrow")
    text = path.read_text().replace('optimizer="adam"', 'optimizer="adam", surrogate=Narrow(by=2)')
    path.write_text(text)
    study, folder = open_study(path)
    study.run(path.parent)
    assert len(trained(list(verify(study, folder, count=1, wait=never)))) == EPOCHS
    study, folder = open_study(path)
    assert trained(list(verify(study, folder, count=1, wait=never))) == []
    path.write_text(text.replace("nn.Tanh()", "nn.ReLU()"))
    study, folder = open_study(path)
    again = verify(study, folder, count=1, wait=never)
    assert [step.records for step in itertools.islice(again, 1)] == [{}]
    [step] = itertools.islice(again, 1)  # in work
    assert step.record is not None
    again.close()
    path.write_text(text)
    study, folder = open_study(path)
    first = verify(study, folder, count=1, wait=never)
    assert [epoch for _, epoch in trained(list(first))] == [1, 2, 3]  # nor what was left there


def test_an_epoch_whose_record_was_lost_is_not_lost(run_study: RunStudy) -> None:
    study, folder = open_study(run_study())
    first = verify(study, folder, count=1, wait=never)
    [_, step] = itertools.islice(first, 2)
    first.close()
    assert step.record is not None
    (folder.targets / f"{step.record.number}.json").unlink()
    again = list(verify(study, folder, count=1, wait=never))
    assert trained(again) == [(step.record.number, 2), (step.record.number, 3)]
    assert len(known_records(folder.targets)[step.record.number].values) == EPOCHS


class RunningStudy:
    """The rest of a study as its own process would run it: a few trials in each wait."""

    def __init__(self, path: Path, stops: list[int]) -> None:
        self._study, self._folder = open_study(path)
        self._stops = stops
        self._hold()

    def _hold(self) -> None:
        self._folder.open(self._study.description)

    def run_on(self) -> None:
        self._folder.close()
        start(self._study, self._folder.path.parent, trials=self._stops.pop(0))
        if self._stops:
            self._hold()


def test_verifying_begins_at_half_of_the_study_and_ends_with_it(run_study: RunStudy) -> None:
    path = run_study(run=1, trials=8)
    study, folder = open_study(path)
    running = RunningStudy(path, stops=[3, 4, 8])
    ended, first = [], None
    for step in verify(study, folder, count=1, wait=running.run_on):
        if step.waits_for is not None:
            ended.append(step.standing.ended)
        first = first or step.record
    assert first is not None
    assert ended == [1, 3, 4]
    best = read_standing(folder, study.description).candidates[0]
    assert known_records(folder.targets)[best.number].state == "complete"


def test_a_better_trial_takes_the_place_of_a_candidate_at_the_end_of_an_epoch(
    run_study: RunStudy,
) -> None:
    path = run_study(run=0, trials=8)
    study, folder = open_study(path)
    numbers = better_later(study, path.parent)
    running = RunningStudy(path, stops=[8])
    steps = verify(study, folder, count=1, wait=never)
    [_, step] = itertools.islice(steps, 2)
    before = step.record
    running.run_on()
    after = [step.record for step in steps]
    assert before is not None
    assert (before.number, len(before.values)) == (numbers[0], 1)
    assert [record.number for record in after if record is not None] == [numbers[1]] * EPOCHS
    left = known_records(folder.targets)[numbers[0]]
    assert (left.state, len(left.values)) == ("in work", 1)  # it would go on from here


def better_later(study: Study, directory: Path) -> tuple[int, int]:
    """Runs half of a study; returns its best trial then, and that after all of it."""
    values = [study.run_alone(trial_params, seed) for trial_params, seed in draws(study, directory)]
    half = len(values) // 2
    early, late = (min(range(n), key=values.__getitem__) for n in (half, len(values)))
    assert early != late, "choose another seed for this test"
    start(study, directory, trials=half)
    return early, late


def draws(study: Study, directory: Path) -> list[tuple[dict[str, object], int]]:
    start(study, directory / "all", trials=study.trials)
    folder = StudyFolder(directory / "all", study.name)
    candidates = read_standing(folder, study.description).candidates
    return [(c.params, c.seed) for c in sorted(candidates, key=lambda c: c.number)]


def test_a_target_that_fails_is_left_with_its_reason(run_study: RunStudy) -> None:
    path = run_study()
    study, folder = open_study(path)
    make = study.model

    def failing(**arguments: object) -> None:
        del arguments
        raise RuntimeError("no such layer")

    study.model = failing  # type: ignore[assignment]
    [_, step] = verify(study, folder, count=1, wait=never)
    assert step.record is not None
    assert step.record.state == "failed"
    assert step.record.reason.startswith("RuntimeError: no such layer (traceback in ")
    study.model = make
    candidates = step.standing.candidates
    found = chosen(step.standing, known_records(folder.targets), study.direction)
    assert found == (candidates[1], None)  # the best that has not failed
    failed = {c.number: replace(step.record, number=c.number) for c in candidates}
    assert chosen(step.standing, failed, study.direction) is None


def test_a_target_without_a_value_at_its_end_has_failed(run_study: RunStudy) -> None:
    study, folder = open_study(run_study())
    study.metric_function = lambda outputs, targets: float("nan")  # noqa: ARG005
    *_, step = verify(study, folder, count=1, wait=never)
    assert step.record is not None
    assert (step.record.state, step.record.reason) == ("failed", "its value is nan")


def test_two_verifications_of_one_study_are_refused(run_study: RunStudy) -> None:
    study, folder = open_study(run_study())
    other = Records(folder.targets)
    with pytest.raises(StudyError, match="is in use by another hydro transfer"):
        next(verify(study, folder, count=1, wait=never))
    other.close()


def test_a_folder_that_cannot_be_written_is_one_sentence(
    run_study: RunStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = open_study(run_study())
    folder.targets.write_text("")
    with pytest.raises(
        StudyError, match=r"targets cannot be written \(File exists\); what was kep"
    ):
        next(verify(study, folder, count=1, wait=never))
    folder.targets.unlink()
    first = verify(study, folder, count=1, wait=never)
    next(first)
    next(first)

    def is_full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", is_full)
        with pytest.raises(StudyError, match=r"targets cannot be written \(PytorchStreamWriter"):
            next(first)  # and the candidate has not failed
    steps = trained(list(verify(study, folder, count=1, wait=never)))
    assert [epoch for _, epoch in steps] == [2, 3]


def test_a_spoiled_record_is_one_sentence(run_study: RunStudy) -> None:
    study, folder = open_study(run_study())
    list(verify(study, folder, count=1, wait=never))
    best = read_standing(folder, study.description).candidates[0]
    (folder.targets / f"{best.number}.json").write_text("{")
    with pytest.raises(StudyError, match="cannot be read; remove it"):
        known_records(folder.targets)


@pytest.mark.parametrize("damage", ["torn", "of another model"])
def test_a_spoiled_training_is_one_sentence(run_study: RunStudy, damage: str) -> None:
    study, folder = open_study(run_study())
    first = verify(study, folder, count=1, wait=never)
    [begins, _] = itertools.islice(first, 2)
    first.close()
    assert begins.begins is not None
    stored = folder.targets / f"{begins.begins.number}.pt"
    if damage == "torn":
        stored.write_bytes(stored.read_bytes()[:100])
    else:
        study.model = lambda: nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 2))
    with pytest.raises(StudyError, match=r"\.pt holds no training of this study's target as it "):
        list(verify(study, folder, count=1, wait=never))
    stored.unlink()
    steps = trained(list(verify(study, folder, count=1, wait=never)))
    assert [epoch for _, epoch in steps] == [1, 2, 3]
