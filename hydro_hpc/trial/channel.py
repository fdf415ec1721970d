"""A two-way stream of messages between a supervisor and a process it started: one socket pair."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

from hydro_hpc.trial.messages import Message, decode, encode


class Channel:
    """One end. Sending blocks only if the other end reads nothing for 200 kB; reading never
    blocks.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self.is_open = True

    def send(self, message: Message, *, rank: int) -> None:
        """Sends one message. A closed other end is noticed by `receive`, not here."""
        try:
            self._socket.sendall(encode(message, rank=rank))
        except (BrokenPipeError, ConnectionResetError):
            self.is_open = False

    def receive(self, timeout_s: float = 0.0) -> Iterator[tuple[int, Message]]:
        """Yields (rank, message) for all that has come, waiting up to `timeout_s` for the first."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self.is_open = False
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            yield decode(line)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self.is_open = False
