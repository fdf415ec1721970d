"""The processes of one study job, over MPI: messages between supervisors, never a blocking call.

Open MPI spins inside blocking calls and would eat the core that the primary needs, so a
supervisor only probes, and sleeps in between. Nothing here is on the path between a trial and a
primary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from hydro_hpc.errors import ConfigError
from hydro_hpc.trial.messages import Message, decode, encode


class Gang(Protocol):
    """The gang as one supervisor sees it."""

    rank: int
    size: int
    library: str

    def send(self, rank: int, message: Message, *, about: int) -> None:
        """Sends without waiting. `about` is the rank whose worker the message is from or for."""

    def receive(self) -> Iterator[tuple[int, Message]]:
        """Yields (about, message) for what has come; never waits."""

    def close(self) -> None:
        """Leaves in good order; every rank must call it at about the same time."""


class SoloGang:
    """A gang of one process: no MPI is loaded."""

    rank = 0
    size = 1
    library = "none"

    def send(self, rank: int, message: Message, *, about: int) -> None:  # noqa: ARG002
        raise AssertionError("a gang of one has nobody to send to")

    def receive(self) -> Iterator[tuple[int, Message]]:
        return iter(())

    def close(self) -> None:
        pass


class MpiGang:
    """A gang over MPI, started by `srun --mpi=pmix`, one process per device."""

    def __init__(self) -> None:
        MPI = _load_mpi()
        MPI.Init_thread(MPI.THREAD_SINGLE)
        self._mpi: Any = MPI
        self._world: Any = MPI.COMM_WORLD
        self._sent: list[tuple[Any, bytes]] = []  # a buffer lives until its request is done
        self.rank = int(self._world.Get_rank())
        self.size = int(self._world.Get_size())
        self.library = str(MPI.Get_library_version()).split(",")[0].strip("\0\n ")

    def send(self, rank: int, message: Message, *, about: int) -> None:
        data = encode(message, rank=about)
        self._sent = [item for item in self._sent if not item[0].Test()]
        self._sent.append((self._world.Isend([data, self._mpi.BYTE], dest=rank), data))

    def receive(self) -> Iterator[tuple[int, Message]]:
        status = self._mpi.Status()
        while self._world.Iprobe(status=status):
            data = bytearray(status.Get_count(self._mpi.BYTE))
            self._world.Recv([data, self._mpi.BYTE], source=status.Get_source())
            yield decode(bytes(data))

    def close(self) -> None:
        self._mpi.Finalize()


def _load_mpi() -> Any:
    """Imports MPI without starting it. Raises ConfigError where there is none."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"MPI cannot be loaded ({reason}), and a gang of several devices needs it; "
            "install hydro-hpc[mpi] in the environment of the job"
        ) from None
    return MPI


def join_gang(environment: Mapping[str, str] = os.environ) -> Gang:
    """Returns the gang that this task belongs to; a single task needs no MPI."""
    if int(environment.get("SLURM_NTASKS", environment.get("SLURM_STEP_NUM_TASKS", "1"))) == 1:
        return SoloGang()
    return MpiGang()
