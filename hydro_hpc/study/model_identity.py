"""What a study's surrogates compute, as a short text: another one where the model has changed.

That is the code of model and loss, and the operators of one call with the numbers that they are
given, at the surrogate's width: an activation, attention's scale, an initial buffer. Parameters
have no part in it; their sizes and spread are the rules' affair. It is equal in every process while
nothing changes; some changes without effect (names of variables, a newer Python) make it another.
Not covered: a number that comes from outside of the code and is what it was at this width alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from hydro_hpc.fusion.code_identity import code_of
from hydro_hpc.nn import trial_stream
from hydro_hpc.study.loading import OF_STUDIES

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.space import Params

FORMAT: Final = 1
MOST_VALUES: Final = 64  # of a constant, beyond which its shape alone counts
PLAIN: Final = (bool, int, float, complex, str, torch.dtype, type(None))


def model_identity(
    study: Study, params: Params, *, choose_rows: Callable[[Tensor], Tensor]
) -> str | None:
    """Of the surrogate that a trial of `params` trains, when it is called with rows of the training
    data. None if there are no data or it cannot be called: then nothing is known of it.
    """
    try:
        rows = choose_rows(study.data().train_x)
        with trial_stream(0, 0):
            module = study.build_surrogate(params, 0).module
            code = [code_of(thing) for thing in (study.model, module, study.loss)]
            module(rows.clone())  # what a process keeps of its first call is there from now on
        with trial_stream(0, 0):
            operators = _operators(study, study.build_surrogate(params, 0).module, rows)
    except Exception:  # the user's code may raise anything
        return None
    facts = [FORMAT, [_without_file(line) for line in itertools.chain(*code)], operators]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()


def _without_file(name: str) -> str:
    """A study's file is a module of one name or of another, by who runs it."""
    files = ["__main__", *(module for module in sys.modules if module.startswith(OF_STUDIES))]
    found = max((f"{f}." for f in files if name.startswith(f"{f}.")), key=len, default="")
    return name.removeprefix(found)


def _operators(study: Study, module: nn.Module, rows: Tensor) -> list[str]:
    x, y = rows.clone(), study.data().train_y[: len(rows)].clone()
    recorder = _Recorder([x, y, *module.parameters()])
    with recorder:
        study.loss(module(x), y)
    return recorder.lines


class _Recorder(TorchDispatchMode):
    """One line for each operator. A tensor that no operator has made is a constant."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[str] = []
        self._known = {id(tensor): tensor for tensor in given}  # kept, so that no id comes again

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        leaves = pytree.tree_leaves((args, kwargs or {}))
        self.lines.append(" ".join([str(func), *map(self._said, leaves)]))
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        self._known |= {id(tensor): tensor for tensor in made}
        return result

    def _said(self, leaf: object) -> str:
        if not isinstance(leaf, Tensor):
            return repr(leaf) if isinstance(leaf, PLAIN) else type(leaf).__name__
        if id(leaf) in self._known:
            return "tensor"
        self._known[id(leaf)] = leaf
        values = leaf.flatten().tolist() if leaf.numel() <= MOST_VALUES else []
        rounded = [f"{value:.6g}" for value in values]  # machines differ in the last bits
        return f"{leaf.dtype} {tuple(leaf.shape)} {rounded}"
