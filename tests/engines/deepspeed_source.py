"""What the hooks rely on in DeepSpeed, read from its source without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENGINES = ("engine", "dualpipev")  # modules of deepspeed.runtime.pipe


def read_facts(package: Path) -> dict[str, Any]:
    """Returns the facts of the release whose `deepspeed` folder this is."""
    pipe = package / "runtime" / "pipe"
    classes = {
        node.name: node
        for module in ENGINES
        if (pipe / f"{module}.py").exists()
        for node in _parse(pipe / f"{module}.py").body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Engine")
    }
    engine = classes["PipelineEngine"]
    schedule = {n.name: n for n in _parse(pipe / "schedule.py").body if isinstance(n, ast.ClassDef)}
    backend = _class(_parse(package / "comm" / "torch.py"), "TorchBackend")
    return {
        "instruction_maps": {name: _instruction_map(node) for name, node in classes.items()},
        "train_batch_parameters": [arg.arg for arg in _method(engine, "train_batch").args.args],
        "train_batch_calls": sorted(_calls(_method(engine, "train_batch"), "self.")),
        "overriding_train_batch": [
            n for n, c in classes.items() if n != "PipelineEngine" and _has_method(c, "train_batch")
        ],
        "dispatch": _dispatch(_method(engine, "_exec_schedule")),
        "engine_sets": sorted(_assigned(engine) & {"self.stage_id", "self.num_stages"}),
        "buffer_instruction_parameters": [
            arg.arg for arg in _method(schedule["BufferOpInstruction"], "__init__").args.args
        ],
        "p2p_calls": {
            name: sorted(_calls(_function(_parse(pipe / "p2p.py"), name), "dist."))
            for name in ("send", "recv")
        },
        "backend_calls": {
            name: sorted(_calls(_method(backend, name), "torch.distributed."))
            for name in ("send", "recv", "all_reduce", "broadcast", "barrier", "batch_isend_irecv")
            if _has_method(backend, name)
        },
        "backend_joins_by": sorted(
            call
            for call in _calls(_method(backend, "init_process_group"), "torch.distributed.")
            if call.endswith("init_process_group")
        ),
    }


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _class(module: ast.Module, name: str) -> ast.ClassDef:
    return next(n for n in module.body if isinstance(n, ast.ClassDef) and n.name == name)


def _function(owner: ast.Module | ast.ClassDef, name: str) -> ast.FunctionDef:
    return next(n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name == name)


_method = _function


def _has_method(owner: ast.ClassDef, name: str) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in owner.body)


def _calls(function: ast.FunctionDef, prefix: str) -> Iterator[str]:
    """Yields what a function calls right below `prefix`, each once."""
    names = {ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)}
    yield from (n for n in names if n.startswith(prefix) and n.removeprefix(prefix).isidentifier())


def _instruction_map(engine: ast.ClassDef) -> dict[str, str]:
    """Returns the class's map, instruction to method; what it takes from another map is `**`."""
    for node in engine.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_INSTRUCTION_MAP":
            assert isinstance(node.value, ast.Dict)
            return {
                "**" if key is None else ast.unparse(key).removeprefix("schedule."): ast.unparse(
                    value
                )
                for key, value in zip(node.value.keys, node.value.values, strict=True)
            }
    return {}


def _dispatch(execute: ast.FunctionDef) -> list[str]:
    """Returns how a method is looked up and how it is called."""
    looked_up = {ast.unparse(n) for n in ast.walk(execute) if isinstance(n, ast.Subscript)}
    called = {
        f"**{ast.unparse(keyword.value)}"
        for node in ast.walk(execute)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg is None
    }
    return sorted(looked_up) + sorted(called)


def _assigned(engine: ast.ClassDef) -> set[str]:
    return {
        ast.unparse(target)
        for node in ast.walk(_method(engine, "__init__"))
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
