"""The hooks on torch.distributed, in real processes over gloo."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hydro_hpc.page_layout import PrimaryState, RecordKind
from tests.hydro_hpc.ranks import make_lanes, read_stage, run_ranks
from tests.hydro_hpc.warm_python import WarmPython

pytestmark = pytest.mark.processes

SCRIPT = textwrap.dedent(
    """
    import os, sys, time
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for step in range(int(sys.argv[1])):
        x = torch.ones(4)
        if rank == 0:
            time.sleep(0.006)          # rank 1 waits: its bubble
            dist.send(x, 1)
        else:
            dist.recv(x, 0)
        work = dist.all_reduce(x, async_op=True)
        work.wait()
        weight.grad = x[:1] * 0
        optimizer.step()
    reqs = dist.batch_isend_irecv(
        [dist.P2POp(dist.isend if rank == 0 else dist.irecv, x, 1 - rank)]
    )
    for req in reqs:
        req.wait()
    print("done", flush=True)
    """
)


@pytest.fixture
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SCRIPT as a file, for a Python that is warm; a test may change it."""
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def page_dir(tmp_path: Path) -> Path:
    return make_lanes(tmp_path)


def test_waiting_rank_opens_its_windows_without_any_change_to_the_script(page_dir: Path) -> None:
    run_ranks("-c", SCRIPT, "60", page_dir=page_dir)
    waiting = read_stage(page_dir, 1)
    assert waiting.get("rank") == 1
    assert waiting.get("num_windows") >= 20
    assert waiting.get("state") == PrimaryState.ENDED
    waits = [record for _, record in waiting.records() if record.kind == RecordKind.WAIT]
    assert sum(record.end_ns - record.start_ns for record in waits if record.extra) > 60_000_000


def test_process_without_lanes_is_left_alone(tmp_path: Path) -> None:
    outputs = run_ranks("-c", SCRIPT, "3", page_dir=None)
    assert outputs == ["done\n", "done\n"]
    assert list(tmp_path.iterdir()) == []


def test_missing_lane_stops_sharing_and_not_the_training(
    script: Path, warm: WarmPython, tmp_path: Path
) -> None:
    outputs = warm.run_ranks(str(script), "3", page_dir=tmp_path / "nothing")
    assert all(output.endswith("done\n") for output in outputs)
    assert all("bubbles are not lent" in output for output in outputs)


def test_an_error_of_ours_stops_sharing_and_not_the_training(
    script: Path, warm: WarmPython, page_dir: Path
) -> None:
    spoil = textwrap.dedent(
        """
        from hydro_hpc.primary import publisher
        def end_wait(self, name):
            raise OverflowError("a bug of ours")
        publisher.Publisher.end_wait = end_wait
        """
    )
    script.write_text(spoil + SCRIPT)
    outputs = warm.run_ranks(str(script), "3", page_dir=page_dir)
    for output in outputs:
        assert output.endswith("done\n")
        assert output.count("bubbles are not lent any more: a bug of ours") == 1
    assert read_stage(page_dir, 0).get("state") == PrimaryState.ENDED


def test_forked_child_leaves_its_parents_page_alone(
    script: Path, warm: WarmPython, page_dir: Path
) -> None:
    fork = textwrap.dedent(
        """
        child = os.fork()
        if not child:
            import atexit
            atexit._run_exitfuncs()  # as sys.exit would, which gloo's lost threads would hang
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        from hydro_hpc.primary import hooks
        from hydro_hpc.page_layout import PrimaryState
        page = hooks._boundary.publisher._page
        assert page.get("state") != PrimaryState.ENDED
        """
    )
    script.write_text(SCRIPT + fork)
    outputs = warm.run_ranks(str(script), "12", page_dir=page_dir)
    assert outputs == ["done\n", "done\n"]


def test_collectives_still_compile_into_one_graph(page_dir: Path) -> None:
    script = textwrap.dedent(
        """
        import torch
        import torch.distributed as dist
        import torch.distributed._functional_collectives as functional

        dist.init_process_group("gloo")

        @torch.compile(backend="eager", fullgraph=True)
        def reduced(x):
            dist.all_reduce(x)
            return functional.wait_tensor(functional.all_reduce(x, "sum", dist.group.WORLD)) + 1

        print(reduced(torch.ones(1)).item())
        """
    )
    assert run_ranks("-c", script, page_dir=page_dir) == ["5.0\n", "5.0\n"]


def test_single_process_never_becomes_a_writer(page_dir: Path) -> None:
    run_ranks(
        "-c",
        "import torch, torch.distributed as d; d.init_process_group('gloo')",
        page_dir=page_dir,
        ranks=1,
    )
    assert "no process" in read_stage(page_dir, 0).writer_problem()


def test_patches_are_undone() -> None:
    script = textwrap.dedent(
        """
        import torch, torch.distributed as dist
        from torch.distributed import distributed_c10d as c10d
        before = {name: getattr(dist, name) for name in dir(dist)}
        wait = dist.Work.wait
        from hydro_hpc.primary import hooks
        hooks.install()
        assert dist.recv is c10d.recv and dist.recv is not before["recv"]
        assert dist.isend is c10d.isend
        hooks.uninstall()
        assert all(getattr(dist, name) is value for name, value in before.items())
        assert dist.Work.wait is wait
        print("done")
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout == "done\n", result.stderr
