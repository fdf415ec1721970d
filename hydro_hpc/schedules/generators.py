"""The schedules that pipeline engines use, by their published rules. Each ends in the border.

The rules give orders of actions only; when each happens follows from `simulation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.schedule import Action, Kind, Schedule


def gpipe(num_ranks: int, num_microbatches: int) -> Schedule:
    """Returns GPipe: all forwards, then all backwards (arXiv 1811.06965)."""
    _check(num_ranks, num_microbatches)

    def order(rank: int) -> Iterator[Action]:
        for kind in (Kind.FORWARD, Kind.BACKWARD):
            for microbatch in range(num_microbatches):
                yield Action(kind=kind, stage=rank, microbatch=microbatch)

    return _schedule(num_ranks, order)


def one_f_one_b(num_ranks: int, num_microbatches: int) -> Schedule:
    """Returns 1F1B (PipeDream-Flush, arXiv 2006.09503): what DeepSpeed's TrainSchedule does."""
    _check(num_ranks, num_microbatches)

    def order(rank: int) -> Iterator[Action]:
        num_warmup = min(num_ranks - 1 - rank, num_microbatches)
        return _one_f_one_b(
            [(rank, microbatch) for microbatch in range(num_microbatches)],
            [(rank, microbatch) for microbatch in range(num_microbatches)],
            num_warmup=num_warmup,
        )

    return _schedule(num_ranks, order)


def interleaved_1f1b(num_ranks: int, num_microbatches: int, *, stages_per_rank: int) -> Schedule:
    """Returns interleaved 1F1B (arXiv 2104.04473): rank r holds the stages r, r + num_ranks, ...

    Microbatches pass in rounds of about `num_ranks`, which must divide them, as in torch.
    """
    _check(num_ranks, num_microbatches)
    if stages_per_rank < 2:
        raise ScheduleError(
            f"interleaved 1F1B: {stages_per_rank} stages per rank; give 2 or more, or use 1F1B"
        )
    num_rounds = max(1, num_microbatches // num_ranks)
    if num_microbatches % num_rounds:
        raise ScheduleError(
            f"interleaved 1F1B: {num_microbatches} microbatches do not divide into {num_rounds} "
            f"rounds; give a multiple of the {num_ranks} ranks"
        )
    in_round = num_microbatches // num_rounds

    def order(rank: int) -> Iterator[Action]:
        held = [local * num_ranks + rank for local in range(stages_per_rank)]
        num_warmup = (stages_per_rank - 1) * in_round + 2 * (num_ranks - 1 - rank)
        return _one_f_one_b(
            _in_rounds(held, num_rounds, in_round),
            _in_rounds(held[::-1], num_rounds, in_round),
            num_warmup=min(num_warmup, stages_per_rank * num_microbatches),
        )

    return _schedule(num_ranks, order)


def zb_h1(num_ranks: int, num_microbatches: int) -> Schedule:
    """Returns ZB-H1 (arXiv 2401.10241): 1F1B whose weight gradients come later, into bubbles.

    Rank r puts off r of them, so that no rank holds more activations than 1F1B's first one.
    """
    _check(num_ranks, num_microbatches)

    def order(rank: int) -> Iterator[Action]:
        microbatches = [(rank, microbatch) for microbatch in range(num_microbatches)]
        num_warmup = min(num_ranks - 1 - rank, num_microbatches)
        num_put_off = min(rank, num_microbatches)
        num_done = 0
        for action in _one_f_one_b(microbatches, microbatches, num_warmup=num_warmup):
            if action.kind == Kind.FORWARD:
                yield action
                continue
            yield Action(kind=Kind.INPUT_GRAD, stage=rank, microbatch=action.microbatch)
            num_done += 1
            if num_done > num_put_off:
                microbatch = num_done - 1 - num_put_off
                yield Action(kind=Kind.WEIGHT_GRAD, stage=rank, microbatch=microbatch)
        for microbatch in range(num_microbatches - num_put_off, num_microbatches):
            yield Action(kind=Kind.WEIGHT_GRAD, stage=rank, microbatch=microbatch)

    return _schedule(num_ranks, order)


def _one_f_one_b(
    forwards: list[tuple[int, int]], backwards: list[tuple[int, int]], *, num_warmup: int
) -> Iterator[Action]:
    """Yields `num_warmup` forwards, then one forward and one backward by turns, then the rest."""
    for stage, microbatch in forwards[:num_warmup]:
        yield Action(kind=Kind.FORWARD, stage=stage, microbatch=microbatch)
    for position, (stage, microbatch) in enumerate(backwards):
        if num_warmup + position < len(forwards):
            next_stage, next_microbatch = forwards[num_warmup + position]
            yield Action(kind=Kind.FORWARD, stage=next_stage, microbatch=next_microbatch)
        yield Action(kind=Kind.BACKWARD, stage=stage, microbatch=microbatch)


def _in_rounds(stages: list[int], num_rounds: int, in_round: int) -> list[tuple[int, int]]:
    """Returns (stage, microbatch) in order: each round passes all stages before the next."""
    return [
        (stage, done * in_round + microbatch)
        for done in range(num_rounds)
        for stage in stages
        for microbatch in range(in_round)
    ]


def _schedule(num_ranks: int, order: Callable[[int], Iterator[Action]]) -> Schedule:
    return Schedule(
        ranks=tuple(
            (*order(rank), Action(kind=Kind.BORDER, stage=rank)) for rank in range(num_ranks)
        )
    )


def _check(num_ranks: int, num_microbatches: int) -> None:
    if num_ranks < 1 or num_microbatches < 1:
        raise ScheduleError(
            f"schedule: {num_ranks} ranks and {num_microbatches} microbatches make none; "
            "give 1 or more of each"
        )
