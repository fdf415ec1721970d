"""A command's processes without processes: they use the device whenever they are not paused."""

from __future__ import annotations


class InMemoryTree:
    def __init__(self) -> None:
        self.is_paused = True
        self.calls: list[str] = []
        self.code: int | None = None
        self.escaped = False  # somebody does not stop
        self._used_ns = 0

    def let_time_pass(self, ns: int) -> None:
        if self.escaped or not self.is_paused:
            self._used_ns += ns

    def exit_code(self) -> int | None:
        return self.code

    def pause(self) -> None:
        self.is_paused = True
        self.calls.append("pause")

    def resume(self) -> None:
        self.is_paused = False
        self.calls.append("resume")

    def ask_to_end(self) -> None:
        self.is_paused = False
        self.calls.append("ask")

    def kill(self, *, give_up_s: float) -> bool:
        assert give_up_s > 0
        self.calls.append("kill")
        return True

    def used_ns(self) -> int:
        return self._used_ns
