"""What one forward of a user's model does, as a graph of calls; or why that cannot be known.

The trace says what happened with symbolic inputs and the present training flags. Whatever Python
does beside it (reads a tensor's value, writes an attribute, draws a random number) is found and
refused, because a graph would freeze it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from hydro_hpc.nn.members import Refused

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class CallTracer(fx.Tracer):
    """Symbolic inputs by position; torch's own modules are leaves; buffers are named, not baked."""

    proxy_buffer_attributes = True

    def __init__(self, num_inputs: int, *, with_lines: bool) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.record_stack_traces = with_lines

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return type(m).__module__.startswith("torch.") and not isinstance(m, CONTAINERS)

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: dict[str, Any] | tuple[Any, ...] | None = None,  # noqa: ARG002
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Arguments that are not given keep their Python defaults."""
        inputs = [
            self.create_proxy("placeholder", f"input_{i}", (), {}) for i in range(self.num_inputs)
        ]
        return root_fn, [self.root, *inputs] if is_module else inputs


def trace_model(
    model: nn.Module,
    num_inputs: int,
    *,
    with_lines: bool = False,
    between: Callable[[str], None] = lambda _: None,
) -> fx.Graph:
    """The graph of `model(input_0, ...)` under its present training flags, without hooks or other
    effects; `Refused` otherwise. The model is not changed. `with_lines` adds the source lines of
    calls, at four times the cost. `between` is called, with the name of what follows, where tracing
    may pause."""
    refuse_hidden_behaviour(model)
    specimen = copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})
    between("state before")
    alive = [dict(vars(module)) for module in specimen.modules()]  # no id is used twice
    before, randomness = _python_state(specimen), _random_state()
    between("calls")
    graph = _traced(specimen, num_inputs, with_lines)
    between("state after")
    if _random_state() != randomness:
        raise Refused("forward draws random numbers outside dropout modules")
    changed = sorted(set(before.items()) ^ set(_python_state(specimen).items()))
    del alive
    if changed:
        raise Refused(f"forward writes to the attribute '{changed[0][0]}'")
    return graph


def _traced(model: nn.Module, num_inputs: int, with_lines: bool) -> fx.Graph:
    try:
        return CallTracer(num_inputs, with_lines=with_lines).trace(model)
    except Exception as error:  # the user's forward ran on symbols: anything may be raised
        reason = " ".join(str(error).split())[:160]
        raise Refused(f"forward cannot be traced ({type(error).__name__}: {reason})") from error


def refuse_hidden_behaviour(model: nn.Module) -> None:
    """`Refused` if a module does more than its class says: hooks, or a forward of its own."""
    for path, module in model.named_modules():
        where = f"{type(module).__name__} '{path}'"
        if "forward" in vars(module):
            raise Refused(f"{where} has a forward of its own")
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            if getattr(module, kind):
                raise Refused(f"{where} has hooks")
        if getattr(module, "_backward_pre_hooks", None):
            raise Refused(f"{where} has hooks")
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise Refused(f"parameter '{name}' has hooks")


def _random_state() -> tuple[Any, ...]:
    torch_state = torch.get_rng_state().numpy().tobytes()
    numpy_state = np.random.get_state(legacy=False)["state"]
    return random.getstate(), torch_state, numpy_state["key"].tobytes(), numpy_state["pos"]


def _python_state(model: nn.Module) -> dict[str, str]:
    """Every attribute of every module, by path, as text that changes when it is written."""
    return {
        f"{path}.{name}".lstrip("."): _fingerprint(value)
        for path, module in model.named_modules()
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items()
        if name not in ("_modules", "_parameters", "_buffers", "training")
    }


def _fingerprint(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{_fingerprint(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | set):
        return "[" + ",".join(_fingerprint(v) for v in value) + "]"
    if isinstance(value, str | int | float | bool | complex | bytes | None):
        return repr(value)
    version = value._version if isinstance(value, torch.Tensor) else 0  # writes in place
    return f"{type(value).__name__}@{id(value)}.{version}"
