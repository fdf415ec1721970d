"""The value of a bundle's trials on the test set, computed inside windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import Bundle
from hydro_hpc.page_layout import RecordKind
from hydro_hpc.study.batches import test_batches
from hydro_hpc.study.data import Data
from hydro_hpc.study.definition import Study
from hydro_hpc.trial.gate import Gate
from hydro_hpc.trial.meter import Meter


class Evaluation:
    """The study's metric of one bundle's slots; a model or metric that raises spoils its own."""

    def __init__(
        self, study: Study, data: Data, gate: Gate, bundle: Bundle, *, unit_ns: int
    ) -> None:
        self._study = study
        self._data = data
        self._gate = gate
        self._bundle = bundle
        self._meter = Meter(gate, unit_ns=unit_ns)

    def prepare(self) -> None:
        """Outside the gate, once: what the bundle would else do in the first evaluation."""
        self._bundle.eval()
        sizes = {len(x): x for x in test_batches(self._data.test_x)}
        for x in sizes.values():
            self._bundle.expect(x.expand(self._bundle.slots, *x.shape))
        self._bundle.train()

    def hook(self, leaves: Mapping[str, nn.Module]) -> None:
        """Makes these the modules before which evaluation may pause, instead of the last ones."""
        self._meter.hook(leaves, has_backward=False)

    def values(self, slots: Sequence[int]) -> dict[int, float | Exception]:
        """Returns the value of each of `slots` on the test set, or what model or metric raised."""
        values: dict[int, float | Exception] = {}
        with self._gate.doing(RecordKind.OTHER), torch.no_grad(), self._bundle.only(slots):
            self._bundle.eval()
            self._meter.begin()
            outputs = self._outputs()
            self._meter.point("metric")
            raised = self._bundle.failures
            for slot in slots:
                if slot in raised or outputs is None:
                    values[slot] = raised[slot]
                    continue
                try:
                    values[slot] = self._metric(slot, outputs[slot])
                except Exception as error:
                    values[slot] = error
            self._meter.end()
            self._bundle.train()
        return values

    def _metric(self, slot: int, outputs: Tensor) -> float:
        streams = self._bundle.streams
        seed, step = streams.seeds[slot], streams.steps[slot]
        return self._study.metric(outputs, self._data.test_y, seed=seed, step=step)

    def _outputs(self) -> Tensor | None:
        """Returns what the models say to the test set, [slots, rows, ...], None if all raised."""
        parts = []
        for x in test_batches(self._data.test_x):
            self._meter.point("rows")
            try:
                parts.append(self._bundle.shared(x))
            except FusionError:
                if any(self._bundle.active):
                    raise
                return None
        return torch.cat(parts, dim=1)
