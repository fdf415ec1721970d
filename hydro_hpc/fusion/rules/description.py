"""A traced call in words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import fx

NOT_THE_USERS: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def describe(node: fx.Node) -> str:
    """The call as a person would look for it, with its source line where known."""
    name = getattr(node.target, "__name__", str(node.target))
    shown = f"'.{name}()'" if node.op == "call_method" else f"'{name}'"
    line = _source_line(node.stack_trace or "")
    return f"{shown} in `{line}`" if line else shown


def _source_line(stack: str) -> str:
    """The innermost line that is the user's own, of text as Python prints a traceback."""
    frames = stack.split('File "')[1:]
    own = [frame for frame in frames if not frame.startswith(NOT_THE_USERS)]
    lines = own[-1].strip().splitlines() if own else []
    return lines[1].strip() if len(lines) > 1 else ""
