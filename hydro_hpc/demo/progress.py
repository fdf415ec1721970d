"""The demo's live display: one line per part of the road; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

Part = Literal["cluster", "training", "study", "bubbles", "again"]
TITLES: Final[dict[Part, str]] = {
    "cluster": "Slurm cluster",
    "training": "training job",
    "study": "study",
    "bubbles": "bubbles",
    "again": "best trial alone",
}
REFRESH_PER_S: Final = 2.0  # it runs beside the primary on the same cores
PLAIN_EVERY_S: Final = 10.0  # of one part, without a terminal


class Progress:
    """Shows what each part is doing. A context: the display ends with it."""

    def __init__(self, console: Console, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._now_s = now_s
        self._texts: dict[Part, str] = {}
        self._done: set[Part] = set()
        self._printed_s: dict[Part, float] = {}
        self._spinner = Spinner("dots")
        self._live = (
            Live(console=console, get_renderable=self.render, refresh_per_second=REFRESH_PER_S)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def doing(self, part: Part, text: str) -> None:
        """Says what a part is doing now."""
        is_new = part not in self._texts
        self._texts[part] = text
        if self._live is None:
            now_s = self._now_s()
            if is_new or now_s - self._printed_s[part] >= PLAIN_EVERY_S:
                self._print(part, text, now_s)

    def done(self, part: Part, text: str) -> None:
        """Says what came out of a part."""
        self._texts[part] = text
        self._done.add(part)
        if self._live is None:
            self._print(part, text, self._now_s())

    def _print(self, part: Part, text: str, now_s: float) -> None:
        self._printed_s[part] = now_s
        self.console.print(f"{TITLES[part]}: {text}", markup=False, highlight=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """Returns the lines of all parts, those to come too."""
        rows = Table.grid(padding=(0, 1))
        for part, title in TITLES.items():
            if part in self._done:
                sign: RenderableType = Text("✓", style="green")
            elif part in self._texts:
                sign = self._spinner
            else:
                sign = Text("·", style="dim")
            rows.add_row(sign, Text(title, style="bold"), Text(self._texts.get(part, "")))
        return Group(rows)
