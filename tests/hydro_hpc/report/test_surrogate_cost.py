"""`hydro explain` of a study of surrogates: what they train, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hydro_hpc import cli
from tests.hydro_hpc.trial.test_solo_surrogates import write_followed_study, write_narrow_study


def test_says_what_surrogates_train_and_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_narrow_study(tmp_path)
    assert cli.main(["explain", str(study)]) == 0
    what, caution, widths, own, head, target, *narrow = capsys.readouterr().out.splitlines()
    assert what.startswith(
        "trials train surrogates of width 16 of 64 for 3 epochs in batches of 32"
    )
    assert "another horizon" in caution
    assert widths == "widths, in the target and in a surrogate:"
    assert own == "  layers.0.weight and 4 more: 64 -> 16"
    assert head == "a step of 32 rows on one thread, and the memory of a trial:"
    assert target.startswith("  target, width 64: ")
    assert [line.split(":")[0] for line in narrow] == [
        "  S = 2, width 32",
        "  S = 4, width 16",
        "  S = 8, width 8",
    ]
    assert all("no more memory than the target" in line for line in narrow)


def test_programs_get_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["explain", str(write_narrow_study(tmp_path, default=10, width=5)), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["bundles"] == []
    target, half, fourth = found["surrogate"]["costs"]
    [eighth] = found["surrogate"]["refused"]
    assert (fourth["shrink"], fourth["width"]) == (4, 2)
    assert eighth["shrink"] == 8
    assert (target["shrink"], target["width"], target["bundled_ms"]) == (1, 10, None)
    assert (half["shrink"], half["width"]) == (2, 5)
    assert half["memory_bytes"] < target["memory_bytes"]
    # parameters, gradients and both moments of Adam, float32, beside activations
    assert target["memory_bytes"] > 4 * 4 * (9 * 10 + 11 * 10 + 11 * 2)


def test_says_why_there_is_no_surrogate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of so few units, nor where the user's own code fails."""
    study = write_narrow_study(tmp_path, default=10, width=2)
    text = study.read_text()
    fails = "if self.layers[0].out_features == 5: raise RuntimeError('no 5')"
    assert text.count("return self.layers(x)") == 1
    text = text.replace("return self.layers(x)", f"{fails}\n        return self.layers(x)")
    study.write_text(text)
    assert cli.main(["explain", str(study)]) == 0
    half, fourth, eighth = capsys.readouterr().out.splitlines()[-3:]
    assert half == ("  S = 2: none: the model fails in a step at this width (RuntimeError: no 5)")
    assert fourth.startswith("  S = 4, width 2: ")
    assert eighth == (
        "  S = 8: none: Narrow(): by=8 leaves 1.25 of the 10 units of the target's width, and one "
        "unit learns nothing as its target does; divide by 5 or less"
    )


def test_says_which_widths_were_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", str(write_followed_study(tmp_path))]) == 0
    what, head, inner, named, _, target, *narrow = capsys.readouterr().out.splitlines()
    assert what.startswith(
        "trials train surrogates of 1/4 of the target's widths (layers.0 kept) for"
    )
    assert what.endswith("; the target's horizon is the same")
    assert head == "widths, in the target and in a surrogate:"
    assert inner == "  layers.2.weight and 2 more: 32 -> 8"
    assert named == "  layers.0.weight and 2 more: 16 stays, as asked"
    assert target.startswith("  target, 754 parameters: ")
    assert [line.split(":")[0] for line in narrow] == [
        "  S = 2, 450 parameters",
        "  S = 4, 298 parameters",
        "  S = 8, 222 parameters",
    ]
