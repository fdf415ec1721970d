"""Whatever a model keeps that leads back to it leads, in a copy, to the copy."""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import ExecutorKind, bind
from hydro_hpc.fusion.copying import own_copy
from tests.hydro_hpc.fusion.architectures import vectors


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        self.keep()

    def keep(self) -> None:
        """What is to be copied."""

    def call(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.call(x)))


class InADict(Base):
    def keep(self) -> None:
        self.paths = {"a": lambda x: self.fc(x)}

    def call(self, x: Tensor) -> Tensor:
        return self.paths["a"](x)


class InAList(Base):
    def keep(self) -> None:
        self.steps = [torch.tanh, (lambda x: self.fc(x),)]

    def call(self, x: Tensor) -> Tensor:
        return self.steps[1][0](x)


class InADeque(Base):
    def keep(self) -> None:
        self.steps = deque([lambda x: self.fc(x)])

    def call(self, x: Tensor) -> Tensor:
        return self.steps[0](x)


class Holder:
    """Any class of a user's."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        self.step = step


class Slotted:
    __slots__ = ("__step",)

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        self.__step = step

    def step(self, x: Tensor) -> Tensor:
        return self.__step(x)


class InAnObject(Base):
    def keep(self) -> None:
        self.holder = Holder(lambda x: self.fc(x))

    def call(self, x: Tensor) -> Tensor:
        return self.holder.step(x)


class InASlot(Base):
    def keep(self) -> None:
        self.holder = Slotted(lambda x: self.fc(x))

    def call(self, x: Tensor) -> Tensor:
        return self.holder.step(x)


class ThroughAFunction(Base):
    def keep(self) -> None:
        def inner(x: Tensor) -> Tensor:
            return self.fc(x)

        self.call = lambda x: inner(x)


class ThroughAnObject(Base):
    def keep(self) -> None:
        holder = Holder(self.fc.forward)
        self.call = lambda x: holder.step(x)


class ByDefault(Base):
    def keep(self) -> None:
        self.call = lambda x, fc=self.fc: fc(x)


class ByKeywordDefault(Base):
    def keep(self) -> None:
        def call(x: Tensor, *, fc: nn.Module = self.fc) -> Tensor:
            return fc(x)

        self.call = call


class Decorated(Base):
    def keep(self) -> None:
        self.call = torch.enable_grad()(lambda x: self.fc(x))


class Wrapped(Base):
    def keep(self) -> None:
        @functools.wraps(self.fc.forward)
        def call(x: Tensor) -> Tensor:
            return call.__wrapped__(x)

        self.call = call


class Partial(Base):
    def keep(self) -> None:
        self.call = functools.partial(lambda gain, x: gain * self.fc(x), 2.0)


class WeakParent(Base):
    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.parent = weakref.ref(parent)

        def forward(self, x: Tensor) -> Tensor:
            return self.parent().fc(x)

    def keep(self) -> None:
        self.child = self.Child(self)

    def call(self, x: Tensor) -> Tensor:
        return self.child(x)


class WeakSibling(Base):
    def keep(self) -> None:
        self.sibling = {"fc": weakref.proxy(self.fc)}

    def call(self, x: Tensor) -> Tensor:
        return self.sibling["fc"](x)


class WeakParameter(Base):
    def keep(self) -> None:
        self.weight = weakref.ref(self.fc.weight)

    def call(self, x: Tensor) -> Tensor:
        return x @ self.weight().t() + self.fc.bias


HOLDING: list[type[Base]] = [
    InADict, InAList, InADeque, InAnObject, InASlot, ThroughAFunction, ThroughAnObject, ByDefault,
    ByKeywordDefault, Decorated, Wrapped, Partial, WeakParent, WeakSibling, WeakParameter,
]  # fmt: skip


@pytest.mark.parametrize("make", HOLDING)
def test_a_copy_uses_its_own_layers(make: type[Base]) -> None:
    model = make().double()
    copied = own_copy(model, "model")
    x = vectors()
    torch.testing.assert_close(copied(x), model(x))
    before = copied(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(x), before)
    copied(x).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("make", [InADict, Decorated, WeakParent])
def test_a_copy_outlives_the_model_and_is_copied_again(make: type[Base]) -> None:
    model = make().double()
    x = vectors()
    expected = model(x)
    copied = own_copy(own_copy(model, "model"), "copy")
    del model
    torch.testing.assert_close(copied(x), expected)


@pytest.mark.parametrize("kind", list(ExecutorKind))
@pytest.mark.parametrize("make", [InAList, Decorated, WeakParent])
def test_a_bundle_trains_its_own_layers(make: type[Base], kind: ExecutorKind) -> None:
    models = [make().double() for _ in range(2)]
    bundle = bind(models, example=vectors(), executor=kind, choices=[])
    x = torch.stack([vectors(), vectors()])
    output = bundle(x)
    for slot, model in enumerate(models):
        torch.testing.assert_close(output[slot], model(x[slot]))
    output.sum().backward()
    assert all(p.grad is None for model in models for p in model.parameters())
    assert all(found.present is None or found.present.all() for found in bundle.gradients())


class Counters(nn.Linear):
    """Two functions that share a variable."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        calls = 0

        def count() -> None:
            nonlocal calls
            calls += 1

        self.count, self.calls = count, lambda: calls


def test_a_variable_that_functions_share_is_shared_in_the_copy_alone() -> None:
    model = Counters()
    copied: Any = own_copy(model, "model")
    copied.count()
    copied.count()
    assert (model.calls(), copied.calls()) == (0, 2)


NOTHING = object()


def test_a_default_that_stands_for_nothing_stays_the_same() -> None:
    model = nn.Linear(2, 2)
    model.call = lambda x=NOTHING, own=model: x is NOTHING and own is not None
    copied: Any = own_copy(model, "model")
    assert copied.call()
    assert copied.call.__defaults__[1] is copied


@pytest.mark.parametrize("make", [weakref.WeakSet, weakref.WeakKeyDictionary])
def test_a_weak_container_of_parts_is_refused(make: type[Any]) -> None:
    def model(is_empty: bool) -> nn.Module:
        made = nn.Linear(2, 2)
        made.known = made_of = make()
        if not is_empty:
            made_of.update([made] if make is weakref.WeakSet else {made: 1})
        return made

    bind([model(is_empty=True)])
    with pytest.raises(FusionError, match="trial 0 cannot be copied: it keeps parts of itself in"):
        bind([model(is_empty=False)])
