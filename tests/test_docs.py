"""docs/cli.md says what `--help` says; HYDRO_UPDATE_DOCS=1 writes it anew. What docs draw is so."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydro_hpc import cli
from hydro_hpc.schedules.generators import one_f_one_b
from hydro_hpc.schedules.schedule import Kind
from hydro_hpc.schedules.simulation import simulate
from hydro_hpc.schedules.timing import Durations
from hydro_hpc.trial import command

FILE = Path(__file__).parents[1] / "docs/cli.md"
HEAD = """# Commands

As `--help` says it. Slurm's own commands show the plugin's options: `sbatch --help | grep hydro`.

Exit codes: 0 done, 1 failed, 2 wrong use, 75 try again later (no bubble to run in).
"""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields a parser and all that are below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def test_every_command_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = HEAD
    for top in (cli.make_parser(), command.make_parser()):
        for parser in parsers(top):
            text += f"\n## {parser.prog}\n\n```\n{parser.format_help().strip()}\n```\n"
    if os.environ.get("HYDRO_UPDATE_DOCS"):
        FILE.write_text(text, encoding="utf-8")
    found = FILE.read_text(encoding="utf-8")
    assert found == text, "docs/cli.md is stale: run this test with HYDRO_UPDATE_DOCS=1"


def test_the_drawn_step_is_the_simulated_one() -> None:
    letters = {Kind.FORWARD: "F", Kind.BACKWARD: "b", Kind.BORDER: ""}
    durations = Durations.even(4, forward_ns=1, input_grad_ns=2)
    rows = []
    for stage, spans in enumerate(simulate(one_f_one_b(4, 8), durations).ranks):
        drawn = [
            "." * span.wait_ns + letters[span.action.kind] * (span.end_ns - span.start_ns)
            for span in spans
        ]
        rows.append(f"stage {stage}  {''.join(drawn)}")
    text = (FILE.parent / "how-it-works.md").read_text(encoding="utf-8")
    assert f"```\n{chr(10).join(rows)}\n```" in text
