from collections.abc import Callable, Sequence
from mmap import mmap

class ThreadLook:
    fd: int
    def __init__(self, page: mmap, *, gate_index: int) -> None: ...
    def __call__(self) -> bool: ...
    def let_block(self) -> None: ...

class Passage:
    word: int
    deadline_ns: int
    careful_ns: int
    late_ns: int
    is_leaving: bool
    has_ended: bool
    ended_ns: int
    ended_device_ns: int
    was_closed: bool
    closed_ns: int
    def __init__(
        self,
        stage: mmap,
        site: mmap,
        *,
        gate_index: int,
        guard_index: int,
        owner_index: int,
        site_index: int,
        closed_index: int,
        first_sleep_ns: int,
        look_every_ns: int,
        ask: Callable[[int], None],
        wants: Callable[[], bool],
    ) -> None: ...
    def __call__(self, need_ns: int, /) -> None: ...
    def is_permitted(self) -> bool: ...
    def note_end(self) -> None: ...

class Points:
    def __init__(
        self, *, admit: Callable[[int], None], learn: Callable[[str], None], rest_ns: int
    ) -> None: ...
    def named(self, key: str) -> Callable[..., None]: ...
    def pass_(self, key: str, /) -> None: ...
    def group(self, needs_ns: Sequence[int], /) -> None: ...
    def begin(self) -> None: ...
    def end(self) -> None: ...
