"""A Python that has imported torch and its compiler, and forks a process for each rank.

A process of its own takes three seconds for that. A fork loads torch's backends again, as the end
of `import torch` does: so it is in its environment, as always, whether our hooks come.

Run as a program it is the server: it reads a line of JSON for each run, and answers with the exit
codes.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hydro_hpc.ranks import LIMIT_S, rank_environments

ROOT = Path(__file__).parents[2]


class WarmPython:
    """The server, seen from the tests. Leaves the outputs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_runs = 0
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("HYDRO_")}
            | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run_ranks(
        self,
        *command: str,
        page_dir: Path | None,
        ranks: int = 2,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The same as ranks.run_ranks, for a script that needs no Python of its own."""
        self._num_runs += 1
        outputs = [self._folder / f"{self._num_runs}.{rank}" for rank in range(ranks)]
        environments = rank_environments(page_dir=page_dir, ranks=ranks, environment=environment)
        codes = self._answer(
            [
                {"command": command, "environment": own, "output": str(output)}
                for own, output in zip(environments, outputs, strict=True)
            ]
        )
        texts = [output.read_text() for output in outputs]
        assert codes == [0] * ranks, "\n".join(texts)
        return texts

    def _answer(self, jobs: list[dict[str, Any]]) -> list[int]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(jobs) + "\n")
        self._server.stdin.flush()
        ready = select.select([self._server.stdout], [], [], LIMIT_S)[0]
        assert ready, f"the ranks did not end in {LIMIT_S} s"
        codes: list[int] = json.loads(self._server.stdout.readline())
        return codes

    def close(self) -> None:
        """Ends the server, and the ranks of a run that has not come to its end."""
        os.killpg(self._server.pid, 9)
        self._server.communicate()


def serve() -> None:
    """Returns in a fork, with its script done, and in the server, when nobody asks any more."""
    import torch
    import torch._dynamo

    for line in sys.stdin:
        pids = []
        for job in json.loads(line):
            pid = os.fork()
            if not pid:
                become(job)
                torch._import_device_backends()
                runpy.run_path(sys.argv[0], run_name="__main__")
                return
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


def become(job: dict[str, Any]) -> None:
    """Gives this process the arguments, the environment and the output that a rank has."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = list(job["command"])
    paths = job["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path(sys.argv[0]).parent), *(path for path in paths if path)]


if __name__ == "__main__":
    serve()
