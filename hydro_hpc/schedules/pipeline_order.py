"""Reads the plans of `torch.distributed.pipelining`, by their text. Nothing of torch is imported.

`schedule.pipeline_order` and `pipeline_order_with_comms` (2.5 and later) are lists of actions or
None by rank. Transfers there do not block, so they are left out and implied.

Not covered: forward and backward that overlap (DualPipeV) are read as one after the other.
`Schedule1F1B` does not run by its own plan, whose last rank is wrong (2.13): use `one_f_one_b`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from hydro_hpc.schedules.schedule import TRANSFERS, Action, Kind, Schedule

OWN_RANK: Final = ("UNSHARD", "RESHARD", "REDUCE_GRAD")  # wait for no other stage
_OWN_RANK: Final = re.compile(rf"[0-9]+({'|'.join(OWN_RANK)})[0-9]*")
_OVERLAP: Final = re.compile(r"\(([^()]*)\)OVERLAP_F_B")


def read_pipeline_order(order: Mapping[int, Iterable[object]]) -> Schedule:
    """Returns the plan with a border at its end, which torch leaves to the training loop."""
    ranks = []
    for rank in sorted(order):
        actions = list(_actions(order[rank]))
        border = [Action(kind=Kind.BORDER, stage=action.stage) for action in actions[:1]]
        ranks.append((*actions, *border))
    return Schedule(ranks=tuple(ranks))


def _actions(planned: Iterable[object]) -> Iterator[Action]:
    for item in planned:
        text = "" if item is None else str(item)
        overlap = _OVERLAP.fullmatch(text)
        for part in overlap.group(1).split(";") if overlap else [text]:
            if not part or _OWN_RANK.fullmatch(part):
                continue
            action = Action.parse(part)
            if action.kind not in TRANSFERS:
                yield action
