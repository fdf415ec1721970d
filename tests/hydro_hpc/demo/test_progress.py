from __future__ import annotations

import io

from rich.console import Console

from hydro_hpc.demo.progress import PLAIN_EVERY_S, TITLES, Progress


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_terminal_a_part_speaks_now_and_then() -> None:
    clock = Clock()
    file = io.StringIO()
    with Progress(Console(file=file), now_s=clock) as progress:
        progress.doing("training", "step 1")
        progress.doing("training", "step 2")
        progress.doing("study", "waits")
        clock.now_s += PLAIN_EVERY_S
        progress.doing("training", "step 3")
        progress.done("training", "step 4")
    assert file.getvalue().splitlines() == [
        "training job: step 1",
        "study: waits",
        "training job: step 3",
        "training job: step 4",
    ]


def test_on_a_terminal_every_part_has_one_line() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = Progress(console)
    progress.doing("study", "waits")
    progress.doing("study", "[trains]")  # no markup
    progress.done("cluster", "Slurm 22.05.8")
    with console.capture() as captured:
        console.print(progress.render())
    lines = captured.get().splitlines()
    assert len(lines) == len(TITLES)
    assert "✓" in lines[0]
    assert "Slurm 22.05.8" in lines[0]
    assert "[trains]" in lines[2]
    assert "waits" not in captured.get()
