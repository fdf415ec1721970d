"""What 1F1B waits for, as formulas: S alike stages, M >= S microbatches, no transfer time."""

from __future__ import annotations

from typing import Final

UNIT_NS: Final = 1000
SHAPES: Final = [
    (num_stages, num_microbatches)
    for num_stages in range(2, 13)
    for num_microbatches in range(num_stages, 3 * num_stages + 2)
]


def windows_ns(
    num_stages: int, num_microbatches: int, stage: int, *, forward_ns: int, backward_ns: int
) -> dict[str, int]:
    """Returns the waits of a stage by the text of the work that they are in front of."""
    after = num_stages - 1 - stage
    windows = {}
    if stage:
        windows[f"{stage}F0"] = stage * forward_ns  # fill
    if after:
        windows[f"{stage}B0"] = after * backward_ns  # turn
    for microbatch in range(num_microbatches - after, num_microbatches):  # cool-downs
        before = windows.get(f"{stage}B{microbatch}", 0)
        windows[f"{stage}B{microbatch}"] = before + forward_ns
    if stage:
        windows[f"{stage}STEP"] = stage * backward_ns  # drain
    return windows
