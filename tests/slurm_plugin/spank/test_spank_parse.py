"""The C parsers, compiled with the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slurm_plugin

SOURCES = Path(slurm_plugin.__file__).parent / "spank"
HEADER = Path("/usr/include/slurm/spank.h")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not HEADER.exists(), reason="needs gcc and Slurm's headers"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("driver") / "driver"
    command = ["gcc", "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    files = [str(Path(__file__).with_name("parse_driver.c")), str(SOURCES / "hydro_parse.c")]
    done = subprocess.run(
        [*command, *SANITIZE, "-o", str(program), *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return program


def ask(driver: Path, function: str, *texts: str) -> list[str]:
    lines = "".join(f"{function} {text}\n" for text in texts)
    done = subprocess.run([driver], input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.strip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1", "1-1"),
        ("4-8", "4-8"),
        ("65535", "65535-65535"),
        ("007", "7-7"),
        ("65536", "refused"),
        ("0", "refused"),
        ("0-3", "refused"),
        ("5-2", "refused"),
        ("99999999999999999999", "refused"),
        ("1-99999999999999999999", "refused"),
        ("x", "refused"),
        ("", "refused"),
        ("-", "refused"),
        ("1-", "refused"),
        ("-1", "refused"),
        ("1 ", "refused"),
        ("1-2-3", "refused"),
        ("+1", "refused"),
        ("0x10", "refused"),
        ("(null)", "refused"),
    ],
)
def test_bubbles_is_a_number_or_a_range(driver: Path, text: str, answer: str) -> None:
    assert ask(driver, "bubbles", text) == [answer]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", ""),
        ("0", "0"),
        ("0,3,4095", "0 3 4095"),
        ("4096", "refused"),
        (",", "refused"),
        ("1,", "refused"),
        (",1", "refused"),
        ("1,,2", "refused"),
        ("1 2", "refused"),
        ("-1", "refused"),
        ("99999999999", "refused"),
        (",".join(["1"] * 64), " ".join(["1"] * 64)),
        (",".join(["1"] * 65), "refused"),
    ],
)
def test_an_answer_is_a_comma_list_of_numbers(driver: Path, text: str, answer: str) -> None:
    assert ask(driver, "numbers", text) == [answer]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("hydro-trial study.py", "yes"),
        ("/opt/venv/bin/hydro-trial study.py", "yes"),
        ("python -m hydro_hpc.trial study.py", "yes"),
        ("python3 -u -m hydro_hpc.trial.command study.py", "yes"),
        ("python -m hydro_hpc.trials study.py", "no"),
        ("python -m other hydro-trial", "no"),
        ("python train.py -m hydro_hpc.trial", "no"),
        ("not-hydro-trial", "no"),
        ("hydro-trial-2", "no"),
        ("bash -c hydro-trial", "no"),
        ("python -m", "no"),
        ("", "no"),
    ],
)
def test_what_counts_as_a_trial(driver: Path, command: str, answer: str) -> None:
    assert ask(driver, "trial", command) == [answer]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/home/a.b/study-1_x.py", "yes"),
        ("~user/x@y=1,2:3+4.py", "yes"),
        ("a b.py", "no"),
        ("a;b.py", "no"),
        ("a$(x).py", "no"),
        ("ü.py", "no"),
        ("a'b.py", "no"),
        ("", "no"),
        ("a" * 1023, "yes"),
        ("a" * 1024, "no"),
    ],
)
def test_a_path_needs_no_quoting(driver: Path, path: str, answer: str) -> None:
    assert ask(driver, "path", path) == [answer]


@pytest.mark.parametrize(
    ("argument", "bound", "study"),
    [
        ("study.py", "", "study.py"),
        ("./bound=1.py", "", "./bound=1.py"),
        ("bound=0.5%", "0.5%", ""),
        ("bound=0.5%,study.py", "0.5%", "study.py"),
        ("bound=0.5%,a,b=1.py", "0.5%", "a,b=1.py"),
        ("bound=", "", ""),
        ("bound=,study.py", "", "study.py"),
        ("bound=" + "9" * 100, "9" * 15, ""),
        ("bound", "", "bound"),
        ("", "", ""),
    ],
)
def test_a_bound_stands_before_the_study(
    driver: Path, argument: str, bound: str, study: str
) -> None:
    assert ask(driver, "bound", argument) == [f"{bound}|{study}"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("0123456789-,x ", max_size=40), min_size=40, max_size=40))
def test_any_text_reads_as_the_grammar_says(driver: Path, texts: list[str]) -> None:
    def expected(text: str) -> str:
        found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
        if not found:
            return "refused"
        low, high = int(found[1]), int(found[2] or found[1])
        return f"{low}-{high}" if 1 <= low <= high <= 65535 else "refused"

    assert ask(driver, "bubbles", *texts) == [expected(text) for text in texts]
