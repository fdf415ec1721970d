"""Where parameters of users' own modules act, followed through torch's functions.

What is computed from parameters alone (a view, a cast, a product of two) is followed as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from hydro_hpc.surrogate.coordinates.sites import (
    Site,
    first_names,
    form_of,
    gain_of,
    puller,
    shapes_in,
    unit,
)
from hydro_hpc.surrogate.coordinates.watching import Call, first_tensor

SUMS: Final = (torch.sum, torch.mean, Tensor.sum, Tensor.mean)  # a product before is contracted


def raw_sites(model: nn.Module, names: Collection[str], call: Call) -> Iterator[Site]:
    """Of these parameters, in a forward on `call`; those whose use is not seen are left out."""
    parameters = {name: model.get_parameter(name) for name in names}
    first = first_names(model)
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    mode = _Following(parameters, call)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), mode:
        args, kwargs = call
        model(*args, **kwargs)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if not torch.equal(buffer, kept[name]):  # others may be part of what is followed
                buffer.copy_(kept[name])
    for name, meeting in mode.meetings.items():
        if meeting.given.requires_grad:
            yield _site(name, first[id(parameters[name])], parameters[name], meeting)


def _site(part: str, name: str, parameter: nn.Parameter, meeting: _Meeting) -> Site:
    y = meeting.given
    gain = gain_of(y, meeting.without) if parameter.ndim > 1 else None
    return Site(
        part=part,
        names=(name,),
        form=form_of([parameter], meeting.taken, y),
        shape=tuple(y.shape),
        gain=gain,
        pull=puller(y, [parameter]),
        like=y.detach(),
    )


class _Meeting:
    """Of a parameter and what the model takes."""

    def __init__(self, given: Tensor, without: Tensor, taken: tuple[tuple[int, ...], ...]) -> None:
        self.given, self.without, self.taken = given, without, taken


class _Following(TorchFunctionMode):
    def __init__(self, parameters: dict[str, nn.Parameter], call: Call) -> None:
        super().__init__()
        self.meetings: dict[str, _Meeting] = {}
        self._names = {id(parameter): frozenset({name}) for name, parameter in parameters.items()}
        self._fed = {id(x) for x in tree_leaves(call) if isinstance(x, Tensor)}
        self._products: dict[int, list[str]] = {}  # the parameters whose meeting gave a tensor
        self._alive: list[Any] = []  # so that no id is used again

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        taken = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        is_fed = any(id(x) in self._fed for x in taken)
        names = frozenset[str]().union(*(self._names.get(id(x), ()) for x in taken))
        met = sorted(name for name in names if name not in self.meetings) if is_fed else []
        for name in met:
            self._meet(name, func, args, kwargs)
        if func in SUMS and args and id(args[0]) in self._products:
            self._sum(self._products[id(args[0])], func, args, kwargs)
        output = func(*args, **kwargs)
        given = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
        self._alive += given
        if is_fed:
            self._fed |= {id(x) for x in given}
            self._products |= {id(x): met for x in given if met}
        elif names:
            self._names |= {id(x): names for x in given}
        return output

    def _meet(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        """On copies, so that the gradient goes to this parameter alone."""

        def given(own: Callable[[Tensor], Tensor]) -> Tensor | None:
            def copied(x: Tensor) -> Tensor:
                return own(x) if name in self._names.get(id(x), ()) else unit(x)

            local_args, local_kwargs = tree_map_only(Tensor, copied, (args, kwargs))
            with torch.random.fork_rng(devices=[]):
                output = func(*local_args, **local_kwargs)
            is_assigned = output is None and func is Tensor.__setitem__
            return first_tensor(local_args[0] if is_assigned else output)

        try:
            found = given(lambda x: x)
            with torch.no_grad():
                without = given(torch.zeros_like)
        except Exception:  # of any function of the user's, on other numbers than its own
            return
        if found is not None and without is not None:
            others = [
                x
                for x in tree_leaves((args, kwargs))
                if isinstance(x, Tensor) and name not in self._names.get(id(x), ())
            ]
            self.meetings[name] = _Meeting(found, without, shapes_in(others))

    def _sum(self, names: list[str], func: Any, args: Any, kwargs: Any) -> None:
        for name in names:
            met = self.meetings.get(name)
            if met is not None and met.given.shape == args[0].shape:
                met.given = func(met.given, *args[1:], **kwargs)
                met.without = func(met.without, *args[1:], **kwargs)
