"""How the code of a model uses its raw parameters, as far as that can be read from its source.

Of a class all methods are read but `__init__`. A read is found through names of modules
(`self.block.scale`), local names, loops over modules, constant and other keys of `ParameterList`
and `ParameterDict`, and `getattr`. A parameter that no code reads is UNSEEN.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, TypeAlias

from torch import nn

from hydro_hpc.surrogate.expressions import Code, Expressions, Use
from hydro_hpc.surrogate.layouts import Place

Part: TypeAlias = nn.Module | nn.Parameter
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList, nn.ParameterDict)
PARAMETERS = (nn.ParameterList, nn.ParameterDict)


class CodeUses:
    """What the code of all modules of a model does with each of its parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._uses: dict[int, set[Use]] = {}
        self._beside: dict[int, set[Use]] = {}
        self._forwarded: set[int] = set()
        for module in model.modules():
            cls: type = type(module)
            for code in codes_of(cls):
                self._read(module, code)

    def beside(self, parameter: nn.Parameter) -> frozenset[Use]:
        """Each thing that is done with it, but by what runs when a module that has it is called."""
        return frozenset(self._beside.get(id(parameter), ()))

    def calls_forward_of(self, module: nn.Module) -> bool:
        """Says whether the code calls its `forward` and not the module."""
        return id(module) in self._forwarded

    def of(self, parameter: nn.Parameter) -> Use:
        """ADDED if that is all that becomes of it, SCALED if it is multiplied value by value too;
        CONTRACTED if it is a factor anywhere.
        """
        found = {*self._uses.get(id(parameter), ())} - {Use.NONE}
        if not found:
            return Use.UNSEEN
        if Use.CONTRACTED in found:
            return Use.CONTRACTED
        if found <= {Use.ADDED, Use.SCALED}:
            return Use.SCALED if Use.SCALED in found else Use.ADDED
        return Use.UNKNOWN

    def _read(self, module: nn.Module, code: Code) -> None:
        for node in code.forwarded:
            self._forwarded |= {id(part) for part in _parts(node, module, code)}
        cls: type = type(module)
        is_run = code.name in run_by_a_call(cls)
        expressions = Expressions(code, lambda node: bool(_parameters(node, module, code)))
        for node in code.reads:
            read = [part for part in _parts(node, module, code) if _is_read(part)]
            if not read:
                continue
            uses = set(expressions.become(node, is_list=isinstance(read[0], PARAMETERS)))
            parameters = _flat(read)
            if len(parameters) > 1 and Use.CONTRACTED in uses:
                uses = uses - {Use.CONTRACTED} | {Use.UNKNOWN}  # which of them is not known
            for parameter in parameters:
                self._uses.setdefault(id(parameter), set()).update(uses)
                if not (is_run and _is_of_layer(module, parameter)):
                    self._beside.setdefault(id(parameter), set()).update(uses)


def _is_of_layer(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Says whether it is a layer of torch's whose own parameter this is."""
    return any(
        own is parameter and Place(path="", module=module, name=name).is_of_torch
        for name, own in module.named_parameters(recurse=False)
    )


def _is_read(part: Part) -> bool:
    return isinstance(part, nn.Parameter | nn.ParameterList | nn.ParameterDict)


def _flat(parts: list[Part]) -> list[nn.Parameter]:
    found: list[nn.Parameter] = []
    for part in parts:
        found += [part] if isinstance(part, nn.Parameter) else part.parameters(recurse=False)
    return found


@functools.cache
def codes_of(cls: Any) -> tuple[Code, ...]:
    """The methods of a class of modules and of those that it derives from, up to torch's own."""
    return tuple(Code(_with_self(method)) for method in _methods(cls))


@functools.cache
def run_by_a_call(cls: Any) -> frozenset[str]:
    """The methods that calling a module of this class runs: `forward` and what it names."""
    found, new = set[str](), {"forward"}
    while new:
        found |= new
        read = {node for code in codes_of(cls) if code.name in new for node in code.reads}
        named = {node.attr for node in read if isinstance(node, ast.Attribute)}
        new = {code.name for code in codes_of(cls) if code.name in named} - found
    return frozenset(found)


def _methods(cls: type[nn.Module]) -> Iterator[ast.FunctionDef]:
    for one in cls.__mro__:
        if one.__module__.startswith("torch.") or one is object:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in getattr(tree.body[0], "body", ()):
            if isinstance(node, ast.FunctionDef) and node.name != "__init__" and node.args.args:
                yield node


def _with_self(method: ast.FunctionDef) -> ast.FunctionDef:
    """The module is called `self` in it, whatever its author calls it."""
    receiver = method.args.args[0].arg
    for node in ast.walk(method):
        if isinstance(node, ast.Name) and node.id == receiver:
            node.id = "self"
    return method


def _parameters(node: ast.AST, module: nn.Module, code: Code) -> list[Part]:
    """Those that an expression holds anywhere."""
    return [
        part
        for inner in ast.walk(node)
        if isinstance(inner, ast.expr)
        for part in _parts(inner, module, code)
        if _is_read(part)
    ]


def _parts(
    node: ast.AST, module: nn.Module, code: Code, names: frozenset[str] = frozenset()
) -> list[Part]:
    """The modules and parameters that an expression may stand for. `names` are being looked up."""
    if isinstance(node, ast.Name):
        if node.id == "self":
            return [module]
        if node.id in names:
            return []
        found: list[Part] = []
        for value, is_loop in code.bound.get(node.id, ()):
            of_value = _parts(value, module, code, names | {node.id})
            found += _elements(of_value, None) if is_loop else of_value
        return found
    if isinstance(node, ast.Attribute):
        return _attributes(_parts(node.value, module, code, names), node.attr)
    if isinstance(node, ast.Subscript):
        return _elements(_parts(node.value, module, code, names), _constant(node.slice))
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" and node.args:
        name = _constant(node.args[1]) if len(node.args) > 1 else None
        return _attributes(_parts(node.args[0], module, code, names), name)
    return []


def _constant(node: ast.AST) -> str | None:
    return str(node.value) if isinstance(node, ast.Constant) else None


def _attributes(parts: list[Part], name: str | None) -> list[Part]:
    """Of modules, by name; of an unknown name all."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, nn.Module):
            own = {**part._modules, **part._parameters}
            named = own.values() if name is None else [own.get(name)]
            found += [each for each in named if each is not None]
    return found


def _elements(parts: list[Part], key: str | None) -> list[Part]:
    """Of lists and dicts of modules or parameters; of an unknown key all."""
    containers = [part for part in parts if isinstance(part, CONTAINERS)]
    found = _attributes([*containers], key)
    return found if found or key is None else _attributes([*containers], None)
