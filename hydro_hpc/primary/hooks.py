"""Hooks the communication boundary of a training job: every blocking call of `torch.distributed`.

This holds for every pipeline engine on a host-blocking backend, and it sees the drain bubble,
which hides in the first cross-stage collective of a step. The patches are made in
`torch.distributed` and in `torch.distributed.distributed_c10d` with the same objects (`P2POp`
compares identities), and are undone by `uninstall`. Only the outermost call on the training
thread counts. Functional collectives (DTensor, FSDP2) wait in their `wait_tensor`.

Not seen: what waits in C++ (the reducer of DistributedDataParallel, the code of `torch.compile`).

Until `init_process_group` has joined more than one rank and this process holds its lane, the
wrapped calls do nothing but call through.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from hydro_hpc.primary import lane, steps
from hydro_hpc.primary.late_import import when_imported
from hydro_hpc.primary.publisher import Publisher

log = logging.getLogger("hydro")

BLOCKING_CALLS: Final = (
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "batch_isend_irecv",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "irecv",
    "isend",
    "monitored_barrier",
    "recv",
    "recv_object_list",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
    "scatter_object_list",
    "send",
    "send_object_list",
)


class Boundary:
    """The state behind the wrapped calls: who publishes, and how deep in a call this thread is."""

    def __init__(self) -> None:
        self.publisher: Publisher | None = None
        self.thread_id = 0
        self.is_inside = False

    def join(self) -> None:
        """Becomes the writer of this rank's lane, once a process group of several ranks exists."""
        if self.publisher is None and dist.get_world_size() > 1:
            self.thread_id = threading.get_ident()
            self.publisher = lane.become_writer()
            steps.follow(self.publisher, fails=self.give_up)

    def leave(self) -> None:
        if self.publisher is not None:
            self.publisher.close()
            self.publisher = None

    def give_up(self, error: Exception) -> None:
        """Ends the sharing: whatever goes wrong in here, the training goes on."""
        publisher, self.publisher = self.publisher, None
        if publisher is None:
            return
        steps.mute()
        log.warning("hydro: bubbles are not lent any more: %s", error)
        with contextlib.suppress(Exception):
            publisher.close()

    def forget(self) -> None:
        """In a forked child, such as a data loader's worker: the page is its parent's."""
        self.publisher = None
        steps.mute()

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Returns `function` with a wait around it; its behaviour is otherwise the same."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():  # the compiler traces the call, and sees only it
                return function(*args, **kwargs)
            publisher = self.publisher
            if publisher is None or self.is_inside or threading.get_ident() != self.thread_id:
                return function(*args, **kwargs)
            self.is_inside = True
            try:
                publisher.begin_wait(name)
            except Exception as error:
                self.give_up(error)
            try:
                return function(*args, **kwargs)
            finally:
                self.is_inside = False
                try:
                    publisher.end_wait(name)
                except Exception as error:
                    self.give_up(error)

        return wrapped

    def wrap_wait(self, wait: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Returns `wait`, such as `Work.wait`, that also opens the gate: there a thread has nothing
        left to do but wait, whichever call it is in.
        """

        @functools.wraps(wait)
        def opening(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return wait(*args, **kwargs)
            publisher = self.publisher
            if publisher is not None and threading.get_ident() == self.thread_id:
                try:
                    publisher.open()
                except Exception as error:
                    self.give_up(error)
            return wait(*args, **kwargs)

        return self.wrap(opening, name)

    def wrap_init(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `init_process_group` that joins the lane afterwards; a failure there only stops
        sharing.
        """

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            try:
                self.join()
            except Exception as error:
                log.warning("hydro: bubbles are not lent: %s", error)
            return result

        return wrapped


FUNCTIONAL_COLLECTIVES: Final = "torch.distributed._functional_collectives"

_originals: list[tuple[Any, str, Any]] = []
_stop_waiting: list[Callable[[], None]] = []  # for modules that were not imported
_boundary = Boundary()


def install() -> None:
    """Patches `torch.distributed`. Called once, by the autoload entry point, before the user's
    code.
    """
    if _originals:
        return
    os.register_at_fork(after_in_child=_boundary.forget)
    for name in BLOCKING_CALLS:
        if hasattr(c10d, name):
            _patch((dist, c10d), name, _boundary.wrap(getattr(c10d, name), name))
    _patch((dist, c10d), "init_process_group", _boundary.wrap_init(c10d.init_process_group))
    _patch((dist.Work,), "wait", _boundary.wrap_wait(dist.Work.wait, "wait"))
    _stop_waiting.append(when_imported(FUNCTIONAL_COLLECTIVES, _hook_functional_collectives))


def _hook_functional_collectives(module: ModuleType) -> None:
    """Their calls return at once; `wait_tensor` is where the result is waited for."""
    _patch((module,), "wait_tensor", _boundary.wrap_wait(module.wait_tensor, "wait_tensor"))


def uninstall() -> None:
    """Undoes `install`, and gives up the lane."""
    _boundary.leave()
    steps.unfollow()
    while _stop_waiting:
        _stop_waiting.pop()()
    for owner, name, original in reversed(_originals):
        setattr(owner, name, original)
    _originals.clear()


def _patch(owners: tuple[Any, ...], name: str, replacement: Any) -> None:
    for owner in owners:
        _originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, replacement)
