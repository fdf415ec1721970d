"""The primary of the benchmark with flags and no prediction: every communication call opens the
gate, and only CLOSED ends it.

python -m benchmarks.naive_primary ARGUMENTS OF examples/gpt_pipeline/train.py
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Final

from hydro_hpc.primary.windows import Window, Windows

TRAIN: Final = Path(__file__).parents[1] / "examples/gpt_pipeline/train.py"
HOUR_NS: Final = 3_600_000_000_000
ALWAYS: Final = Window(until_ns=HOUR_NS, open_by_ns=HOUR_NS, is_worth_opening=True)


class NoPrediction(Windows):
    """Expects every call to wait for an hour."""

    def expect(self, name: str) -> Window:  # noqa: ARG002
        return ALWAYS


def main() -> None:
    from hydro_hpc.primary import publisher

    setattr(publisher, "Windows", NoPrediction)  # noqa: B010
    sys.argv[0] = str(TRAIN)
    sys.path.insert(0, str(TRAIN.parent))  # as for a script: its model is beside it
    runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
    main()
