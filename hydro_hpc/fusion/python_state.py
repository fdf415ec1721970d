"""What a model keeps beside its modules, parameters and buffers: is it written?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from hydro_hpc.fusion import back_references
from hydro_hpc.fusion.contents import Contents, Unreadable
from hydro_hpc.nn.members import Refused

# Tensors and flags are compared elsewhere, hooks of forward and backward looked at by themselves.
APART: Final = back_references.APART | {"training"}
# What forward does not read: hooks of state_dict, weak references to a module's own parameters.
UNREAD: Final = frozenset(
    {
        "_flat_weight_refs", "_load_state_dict_post_hooks", "_load_state_dict_pre_hooks",
        "_state_dict_hooks", "_state_dict_pre_hooks",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonState:
    """What is in every attribute of every module, by path, as text that changes when it does.

    It goes by identities, too: what they are of is kept `alive`.
    """

    texts: Mapping[str, str]
    alive: Sequence[Any]


def python_state(model: nn.Module) -> PythonState:
    """`Refused` if an attribute is of a class of a user's that hides what is in it."""
    contents = Contents([*model.modules(), *model.parameters(), *model.buffers()])
    texts = {
        f"{path}.{name}".lstrip("."): _text(contents, name, value)
        for path, module in model.named_modules()
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items()
        if name not in APART and name not in UNREAD
    }
    return PythonState(texts=texts, alive=contents.alive)


def first_change(before: PythonState, after: PythonState, *, apart: str | None = None) -> str:
    """The path of the first attribute that differs between two states, of the outermost module that
    has one; empty if none does. Names that begin with `apart` do not count.
    """
    changed = {path for path, _ in set(before.texts.items()) ^ set(after.texts.items())}
    counted = [p for p in changed if not apart or not p.rpartition(".")[2].startswith(apart)]
    return min(counted, key=lambda path: (path.count("."), path), default="")


def _text(contents: Contents, name: str, value: Any) -> str:
    try:
        return contents.text(value)
    except Unreadable as hidden:
        raise Refused(f"the attribute '{name}' holds a {hidden}, which hides its state") from hidden
