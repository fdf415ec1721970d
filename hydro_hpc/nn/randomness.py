"""Random numbers as functions of (trial seed, step, call), so that no neighbour can change them.

Before each forward of an unfused trial its stream is a fresh generator, seeded from the trial's
seed, the number of optimizer steps done and the number of the call since the last step. A bundle
draws from the same streams in the same order, so its dropout masks are those of the unfused trial,
whatever F, the slot and its neighbours, and after a resume.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def stream_key(seed: int, step: int, call: int, *, training: bool) -> int:
    """The 63-bit generator seed of one forward call of one trial."""
    packed = struct.pack("<qqq?", seed, step, call, training)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


@contextmanager
def trial_stream(seed: int, step: int, call: int = 0, *, training: bool = True) -> Iterator[None]:
    """Within it, the global generators of torch, Python and NumPy are the trial's for this call.

    Put it around each forward of an unfused model to give it the masks it has in a bundle; `step`
    counts optimizer steps done, `call` the forwards since. The global state is restored after.
    """
    key = stream_key(seed, step, call, training=training)
    with torch_randomness_restored(), python_randomness_restored():
        seed_globally(key)
        seed_python(key)
        yield


@contextmanager
def torch_randomness_restored() -> Iterator[None]:
    """The state of torch's global generators, on the CPU and the current GPU, is after it what it
    was before.
    """
    if torch.cuda.is_initialized():
        with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
            yield
        return
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


@contextmanager
def python_randomness_restored() -> Iterator[None]:
    """The state of Python's and NumPy's global generators is after it what it was before."""
    state = _python_generators()
    try:
        yield
    finally:
        _set_python_generators(state)


def seed_python(key: int) -> None:
    """Seeds the global generators of Python and NumPy."""
    random.seed(key)
    np.random.seed(key % 2**32)


def python_random_state() -> tuple[Any, ...]:
    """Of Python's and NumPy's global generators, to compare."""
    numpy_state = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy_state["key"].tobytes(), numpy_state["pos"]


def _python_generators() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state(legacy=False)


def _set_python_generators(state: tuple[Any, Any]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])


def seed_globally(key: int) -> None:
    """Seeds the generators that ordinary torch code draws from, on the CPU and the current GPU."""
    torch.default_generator.manual_seed(key)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(key)


class SlotStreams:
    """The streams of all slots of a bundle: who draws, and how far each trial is. Set
    `uses_python` if the models draw from Python's or NumPy's generators too.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)
        self.steps = [0] * len(seeds)
        self._calls = self._none_yet()
        self._training = True
        self.uses_python = False
        self._python_states: dict[int, tuple[Any, Any]] = {}
        self._generators = [torch.Generator() for _ in seeds]
        self._seeded_in_this_call = [False] * len(seeds)

    def begin_call(self, *, training: bool) -> None:
        """A forward of all slots starts."""
        self._training = training
        self._calls[training] = [calls + 1 for calls in self._calls[training]]
        self.begin_call_again()

    def begin_call_again(self) -> None:
        """The forward that has begun starts anew, with the same draws."""
        self._seeded_in_this_call = [False] * len(self.seeds)
        self._python_states.clear()

    def advance(self, active: Sequence[bool]) -> None:
        """An optimizer step was made by the active slots."""
        self.steps = [step + on for step, on in zip(self.steps, active, strict=True)]
        self._calls = self._none_yet()

    def restart(self, slot: int, seed: int, step: int = 0) -> None:
        """Another trial, or the same one at another step, is in the slot now."""
        self.seeds[slot], self.steps[slot] = seed, step
        for calls in self._calls.values():
            calls[slot] = 0

    def of_slots(self, sources: Sequence[int]) -> SlotStreams:
        """The same streams in other slots, `sources[new]` being the old one."""
        other = SlotStreams([self.seeds[slot] for slot in sources])
        other.steps = [self.steps[slot] for slot in sources]
        for training, calls in self._calls.items():
            other._calls[training] = [calls[slot] for slot in sources]
        other.uses_python = self.uses_python
        return other

    def key(self, slot: int) -> int:
        """The slot's generator seed for the present call."""
        call = self._calls[self._training][slot] - 1
        return stream_key(self.seeds[slot], self.steps[slot], call, training=self._training)

    def _none_yet(self) -> dict[bool, list[int]]:
        """The forwards of each slot since its last step, in training and in evaluation."""
        return {training: [0] * len(self.seeds) for training in (True, False)}

    @contextmanager
    def lent(self, slot: int) -> Iterator[None]:
        """Within it, what ordinary code draws on the CPU comes from the slot's own stream.

        Only inside `owned`: torch's global state is not restored.
        """
        own = self.generator(slot)
        torch.default_generator.set_state(own.get_state())
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(self.key(slot))
        try:
            if self.uses_python:
                with self._python_lent(slot):
                    yield
            else:
                yield
        finally:
            own.set_state(torch.default_generator.get_state())

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Within it torch's global generators are the slots' in turn, after it what they were."""
        with torch_randomness_restored():
            yield

    @contextmanager
    def _python_lent(self, slot: int) -> Iterator[None]:
        with python_randomness_restored():
            if slot in self._python_states:
                _set_python_generators(self._python_states[slot])
            else:
                seed_python(self.key(slot))
            try:
                yield
            finally:
                self._python_states[slot] = _python_generators()

    def generator(self, slot: int) -> torch.Generator:
        """The slot's generator, at the place that its draws in this call have reached."""
        if not self._seeded_in_this_call[slot]:
            self._generators[slot].manual_seed(self.key(slot))
            self._seeded_in_this_call[slot] = True
        return self._generators[slot]
