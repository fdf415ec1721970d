"""Does an executor equal separate models? Found out on untouched copies, slot by slot.

Compared are outputs, losses and buffers, in every training mode that the bundle can be in; and in
double precision for a few slots also gradients, absent ones too, and the first call once more.
Copies get slightly different weights, so that slots which start equal cannot be taken for each
other.

Gradients are compared in double precision, where the models allow it: in single precision rounding
switches a ReLU now and then, and each switch moves a gradient by a visible step, in ordinary torch
too. Double precision takes twice the memory and thrice the time, so a few slots have to do: the
first, whose model is what executors trace, two neighbours and the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

import torch
from torch import Tensor, nn

from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.executor import Executor
from hydro_hpc.fusion.gradients import clear, dense
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.rows import split_slots, tensors_in
from hydro_hpc.fusion.sample import Sample
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.nn.members import Refused
from hydro_hpc.nn.randomness import SlotStreams, python_random_state, trial_stream

MakeExecutor = Callable[[StackedState, SlotStreams], Executor]

RELATIVE_TOLERANCE: Final = {torch.float64: 1e-9, torch.float32: 1e-3}
PROBED: Final = 4  # slots that are compared in double precision
COARSE_TOLERANCE: Final = 5e-2  # of half precision, and of gradients in any but double
# Of a module's largest buffer: a mean that is zero but for rounding has no more in it than that.
NEGLIGIBLE: Final = {torch.float64: 1e-14, torch.float32: 1e-6}


class Thoroughness(Enum):
    """What is compared: `IN_PASSING` only the few slots in double precision, where the models allow
    it; `IN_OWN_PRECISION` all slots, gradients too, and nothing in double precision.
    """

    FULL = "full"
    IN_PASSING = "in passing"
    IN_OWN_PRECISION = "in own precision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one slot's model gave in one training mode."""

    output: list[Tensor]
    loss: Tensor
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    uses_python: bool = False  # drew from Python's or NumPy's generators


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimens:
    """Copies of models to run on a sample, and whether backward too."""

    models: Sequence[nn.Module]
    sample: Sample
    seeds: Sequence[int]
    with_gradients: bool

    def probed(self) -> Specimens:
        """Copies of a few of them in double precision."""
        last = len(self.models) - 1
        slots = sorted({*range(min(PROBED - 1, last)), last})
        return Specimens(
            models=[own_copy(self.models[slot], "trial").double() for slot in slots],
            sample=self.sample.of_slots(slots).in_float64(),
            seeds=[self.seeds[slot] for slot in slots],
            with_gradients=True,
        )


class Verification:
    """Untouched copies of some models, and what they give for a sample: the same for each executor
    that is compared with them. The models are not changed. What they raise comes through.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        sample: Sample,
        seeds: Sequence[int],
        thoroughness: Thoroughness = Thoroughness.FULL,
        specimen: Callable[[nn.Module, int], nn.Module] | None = None,
    ) -> None:
        specimens = [(specimen or _perturbed)(model, slot) for slot, model in enumerate(models)]
        own = Specimens(models=specimens, sample=sample, seeds=seeds, with_gradients=True)
        with torch.inference_mode(False), torch.enable_grad():
            self._rounds = []
            if thoroughness is not Thoroughness.IN_OWN_PRECISION:
                with suppress(Exception):  # a model may insist on its own precision
                    probed = own.probed()
                    self._rounds = [(probed, list(_expected(probed)))]
                    own = replace(own, with_gradients=False)
            if thoroughness is not Thoroughness.IN_PASSING or not self._rounds:
                self._rounds.append((own, list(_expected(own))))
        self.uses_python = any(
            one.uses_python
            for _, expected in self._rounds
            for outcomes in expected
            for one in outcomes
        )

    def is_repeatable(self) -> bool:
        """Says whether other untouched copies give the same again."""
        with torch.inference_mode(False), torch.enable_grad():
            return not any(
                _first_difference(expected, _expected(specimens))
                for specimens, expected in self._rounds
            )

    def refusal(self, make: MakeExecutor) -> str | None:
        """Why this executor may not be used for these models, or None."""
        try:
            with torch.inference_mode(False), torch.enable_grad():
                for specimens, expected in self._rounds:
                    found = _found(make, specimens, uses_python=self.uses_python)
                    if difference := _first_difference(expected, found):
                        return difference
                return None
        except Refused as reason:
            return str(reason)
        except Exception as error:  # of a fused model where separate ones raise nothing
            return f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _passes(given: Specimens) -> list[tuple[bool | None, bool]]:
    """The training mode of each call that is compared, and whether backward follows it. With
    gradients the first is made once more at the end: forward may change more than buffers.
    """
    modes = training_modes(given.models[0])
    again = [(modes[0], False)] if given.with_gradients else []
    return [*((mode, given.with_gradients) for mode in modes), *again]


def training_modes(model: nn.Module) -> list[bool | None]:
    """The modes that a bundle of such models can be in; None is the flags that it came with."""
    modules = list(model.modules())
    is_plain = all(type(module).train is nn.Module.train for module in modules)
    is_covered = is_plain and len({module.training for module in modules}) == 1
    return [True, False] if is_covered else [None, True, False]


def _expected(given: Specimens) -> Iterator[list[Outcome]]:
    oracles = [own_copy(model, "trial") for model in given.models]
    for mode, with_gradients in _passes(given):
        rows = zip(oracles, given.seeds, given.sample.rows(len(oracles)), strict=True)
        one = replace(given, with_gradients=with_gradients)
        yield [_expected_of_one(oracle, mode, one, seed, row) for oracle, seed, row in rows]


def _expected_of_one(
    oracle: nn.Module, mode: bool | None, given: Specimens, seed: int, row: tuple[Any, Any, Any]
) -> Outcome:
    args, kwargs, targets = row
    if mode is not None:
        oracle.train(mode)
    oracle.zero_grad(set_to_none=True)
    with trial_stream(seed, 0, 0, training=oracle.training):
        randomness = python_random_state()
        output = oracle(*args, **kwargs)
        uses_python = python_random_state() != randomness
    loss = given.sample.loss_of(output, targets, is_training=oracle.training)
    gradients = {}
    if given.with_gradients:
        if loss.requires_grad:
            loss.backward()
        gradients = {n: dense(p.grad) for n, p in oracle.named_parameters() if p.requires_grad}
    return Outcome(
        output=_tensors(output),
        loss=loss.detach(),
        gradients=gradients,
        buffers={n: b.detach().clone() for n, b in oracle.named_buffers()},
        uses_python=uses_python,
    )


def _found(
    make: MakeExecutor, specimens: Specimens, *, uses_python: bool
) -> Iterator[list[Outcome]]:
    sample = specimens.sample
    state = StackedState([own_copy(model, "trial") for model in specimens.models])
    streams = SlotStreams(specimens.seeds)
    streams.uses_python = uses_python
    executor = make(state, streams)
    for mode, with_gradients in _passes(specimens):
        for model in state.slot_models if mode is not None else ():
            model.train(bool(mode))
        executor.adopt_training_flags()
        for block in state.blocks:
            clear(block, [executor])
        streams.advance([False] * state.slots)  # the first call of a step again
        streams.begin_call(training=state.slot_models[0].training)
        own = sample.copy()
        output = executor.run(InputForm.of(own.args, own.kwargs))
        outputs = split_slots(output, state.slots)
        rows = zip(outputs, sample.rows(state.slots), strict=True)
        is_training = state.slot_models[0].training
        losses = [sample.loss_of(o, row[2], is_training=is_training) for o, row in rows]
        if with_gradients and losses[0].requires_grad:
            torch.stack(losses).sum().backward()
        found = [
            Outcome(
                output=_tensors(outputs[slot]),
                loss=losses[slot].detach(),
                gradients={name: _gradient(executor, name, slot) for name in state.trainable}
                if with_gradients
                else {},
                buffers={n: b.detach().clone() for n, b in model.named_buffers()},
            )
            for slot, model in enumerate(state.slot_models)
        ]
        del output, outputs, losses, rows  # and with them what backward would need
        yield found


def _gradient(executor: Executor, name: str, slot: int) -> Tensor | None:
    leaf = executor.leaf(name)
    if not isinstance(leaf, Tensor):
        return dense(leaf[slot].grad)
    return None if leaf.grad is None else leaf.grad[slot]


def as_it_is(model: nn.Module, slot: int) -> nn.Module:
    """A specimen of a model that takes no other weights: a buffer may be an index."""
    del slot
    return own_copy(model, "trial")


def _perturbed(model: nn.Module, slot: int) -> nn.Module:
    copy = own_copy(model, "trial")
    generator = torch.Generator().manual_seed(slot)
    with torch.no_grad():
        for tensor in [*copy.parameters(), *copy.buffers()]:
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.mul_((1.0 + 0.1 * noise).to(tensor))
    return copy


def _first_difference(
    expected: Sequence[list[Outcome]], found: Iterator[list[Outcome]]
) -> str | None:
    for slots in expected:
        for slot, (right, ours) in enumerate(zip(slots, next(found), strict=True)):
            if what := _difference(right, ours):
                return f"differs from separate models in slot {slot}: {what}"
    return None


def _difference(right: Outcome, ours: Outcome) -> str | None:
    """What differs first, in words; None if nothing does. A gradient that is not in
    `right.gradients` is not compared."""
    if len(right.output) != len(ours.output):
        return f"{len(ours.output)} output tensors, not {len(right.output)}"
    pairs = [
        *((f"output {n}", a, ours.output[n]) for n, a in enumerate(right.output)),
        ("loss", right.loss, ours.loss),
    ]
    for what, a, b in pairs:
        if not _close(a, b):
            return what
    for name, buffer in right.buffers.items():
        floor = _negligible(name, right.buffers)
        if name not in ours.buffers or not _close(buffer, ours.buffers[name], floor):
            return f"buffer '{name}'"
    norms = [float(g[g.isfinite()].norm()) for g in right.gradients.values() if g is not None]
    for name, expected in right.gradients.items():
        found = ours.gradients[name]
        if (expected is None) != (found is None):
            return f"gradient of '{name}' is {'absent' if found is None else 'there'}"
        if expected is None or found is None:
            continue
        if not _close_gradient(expected, found, max(norms)):
            return f"gradient of '{name}'"
    return None


def _negligible(name: str, buffers: dict[str, Tensor]) -> float:
    """What is nothing beside the buffers of the module that this one is of."""
    module, dtype = name.rpartition(".")[0], buffers[name].dtype
    siblings = [b for n, b in buffers.items() if n.rpartition(".")[0] == module]
    return NEGLIGIBLE.get(dtype, 0.0) * max(_largest(b) for b in siblings if b.dtype == dtype)


def _close(right: Tensor, ours: Tensor, floor: float = 0.0) -> bool:
    """Equal up to rounding, element by element, or up to `floor`."""
    if right.shape != ours.shape or right.dtype != ours.dtype:
        return False
    if not right.is_floating_point() or right.numel() == 0:
        return torch.equal(right, ours)
    tolerance = RELATIVE_TOLERANCE.get(right.dtype, COARSE_TOLERANCE)
    least = max(tolerance * _largest(right), floor)
    return torch.allclose(ours, right, rtol=tolerance, atol=least, equal_nan=True)


def _largest(x: Tensor) -> float:
    """The magnitude of the largest finite number in it, 0 if there is none."""
    finite = x[x.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _close_gradient(right: Tensor, ours: Tensor, largest: float) -> bool:
    """Equal up to rounding as a whole. `largest` is the norm of the slot's largest gradient: one
    that is zero but for rounding (of a bias before a normalisation) is measured against it."""
    if right.shape != ours.shape or not torch.equal(right.isfinite(), ours.isfinite()):
        return False
    is_double = right.dtype == torch.float64
    tolerance = 1e-9 if is_double else COARSE_TOLERANCE
    floor = largest * (1e-5 if is_double else 1.0)
    finite = right.isfinite()
    gap, scale = (right - ours)[finite].norm(), right[finite].norm()
    return float(gap) <= tolerance * max(float(scale), floor)


def _tensors(tree: Any) -> list[Tensor]:
    return [x.detach() for x in tensors_in(tree)]
