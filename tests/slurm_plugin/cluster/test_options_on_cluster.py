"""Both options through the real sbatch, srun and salloc: what is taken, each refusal's words."""

from __future__ import annotations

import pytest

from hydro_hpc.devcluster import Cluster

pytestmark = pytest.mark.slurm

NOT_A_NUMBER = (
    "hydro: --bubbles={} is not a number of devices; write --bubbles=N or --bubbles=MIN-MAX "
    "with 1 <= MIN <= MAX <= 65535"
)
BOTH = (
    "hydro: --hydro-bubble lends this job's bubbles and --bubbles asks for those of others; "
    "a job can do one of them, so submit two jobs"
)
BY_HAND = (
    "hydro: {} cannot be asked for by hand, since only some devices have bubbles now; "
    "use sbatch --bubbles=N"
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bubbles=0"], NOT_A_NUMBER.format("0")),
        (["--bubbles=x"], NOT_A_NUMBER.format("x")),
        (["--bubbles=5-2"], NOT_A_NUMBER.format("5-2")),
        (["--bubbles=99999999999"], NOT_A_NUMBER.format("99999999999")),
        (["--bubbles=1", "--hydro-bubble"], BOTH),
        (["--hydro-bubble", "--bubbles=1"], BOTH),
        (
            ["--hydro-bubble=/no/such.py", "--gres=gpu:1"],
            "hydro: --hydro-bubble=/no/such.py: the study file cannot be read (No such file or "
            "directory); give the path of a Python file",
        ),
        (
            ["--hydro-bubble=a b.py", "--gres=gpu:1"],
            "hydro: --hydro-bubble=a b.py: a study's path may have letters, digits and "
            "_./+@,=:~- only, at most 1023; rename or move the file",
        ),
        (
            ["--hydro-bubble=", "--gres=gpu:1"],
            "hydro: --hydro-bubble= has no study behind the equals sign; leave the sign out or "
            "name a file",
        ),
        (
            ["--hydro-bubble"],
            "hydro: --hydro-bubble lends the bubbles of GPUs, and this job asks for none; add "
            "--gres=gpu:N or --gpus=N, or leave --hydro-bubble out",
        ),
        (
            ["--bubbles=2", "--gres=gpu:1"],
            "hydro: --bubbles finds the devices itself, so gpu:1 cannot be asked for in the same "
            "job; leave --gres and --gpus out",
        ),
        (
            ["--bubbles=2", "--gpus=1"],
            "hydro: --bubbles finds the devices itself, so gpu:1 cannot be asked for in the same "
            "job; leave --gres and --gpus out",
        ),
        (
            ["--bubbles=2", "--array=0-3"],
            "hydro: --bubbles finds devices for one study, so a job array cannot be taken; leave "
            "--array out and let the study's trials be the array",
        ),
        (
            ["--bubbles=2", "--hold"],
            "hydro: a job with --bubbles is held and released by the coordinator, so --hold would "
            "be lost; leave it out, and submit the job when it may start",
        ),
        (["--gres=bubble:1"], BY_HAND.format("bubble:1")),
        (["--gres=bubble:g0:1"], BY_HAND.format("bubble:g0:1")),
        (["--hydro-bubble", "--gres=gpu:1,bubble:1"], BY_HAND.format("bubble:1")),
        (
            ["--partition=bubble"],
            "hydro: partition bubble is for studies that run in bubbles; use sbatch --bubbles=N, "
            "or another partition",
        ),
        (
            ["--hydro-bubble=bound=0.5", "--gres=gpu:1"],
            "hydro: --hydro-bubble=bound=0.5 names no slowdown; write --hydro-bubble=bound=0.5%, "
            "or any other percentage below 100%, and ,STUDY behind it for a study",
        ),
        (
            ["--hydro-bubble=bound=1%,/no/such.py", "--gres=gpu:1"],
            "hydro: --hydro-bubble=/no/such.py: the study file cannot be read (No such file or "
            "directory); give the path of a Python file",
        ),
        (
            ["--hydro-bubble=/tmp", "--gres=gpu:1"],
            "hydro: --hydro-bubble=/tmp: the study file cannot be read (Is a directory); "
            "give the path of a Python file",
        ),
    ],
)
def test_sbatch_refuses_with_one_sentence(
    cluster: Cluster, options: list[str], message: str
) -> None:
    done = cluster.run(["sbatch", *options, "--wrap=true"], timeout_s=30)
    assert done.returncode != 0
    assert f"sbatch: error: {message}\n" in done.stderr
    assert sum("hydro:" in line for line in done.stderr.splitlines()) == 1


@pytest.mark.parametrize("program", ["srun", "salloc"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--bubbles=2",
            "hydro: --bubbles is for sbatch only (the devices are found while the job waits); "
            "submit a script that runs: srun hydro-trial STUDY",
        ),
        (
            "--hydro-bubble=study.py",
            "hydro: --hydro-bubble=STUDY needs the batch job of sbatch to run beside; with {} "
            "give --hydro-bubble and start the study by: srun --overlap hydro-trial study.py",
        ),
    ],
)
def test_srun_and_salloc_refuse_what_needs_a_batch_job(
    cluster: Cluster, program: str, option: str, message: str
) -> None:
    done = cluster.run([program, option, "--gres=gpu:1", "true"], timeout_s=30)
    assert done.returncode != 0
    assert f"{program}: error: {message.format(program)}\n" in done.stderr


@pytest.mark.parametrize("program", ["sbatch", "srun", "salloc"])
def test_the_help_says_whose_options_they_are(cluster: Cluster, program: str) -> None:
    output = " ".join(cluster.run([program, "--help"], timeout_s=30).stdout.split())
    assert "--hydro-bubble=STUDY [hydro] lend this job's pipeline bubbles" in output
    assert "--bubbles=N|MIN-MAX [hydro] sbatch only:" in output


@pytest.mark.parametrize("program", ["srun", "salloc"])
def test_srun_and_salloc_lend(cluster: Cluster, program: str) -> None:
    inner = ["srun"] if program == "salloc" else []
    command = [program, "--hydro-bubble", "--gres=gpu:1", *inner, "sh", "-c", "env | grep ^HYDRO_"]
    done = cluster.run(command, timeout_s=60)
    assert done.returncode == 0, done.stderr
    assert "hydro:" not in done.stderr
    assert set(done.stdout.split()) == {
        "HYDRO_PAGE_DIR=/run/hydro",
        "HYDRO_LANES=0",
        "HYDRO_ROLE=lend",
        "HYDRO_BUBBLE=1",
    }


def test_an_ordinary_job_gets_nothing_of_ours(cluster: Cluster) -> None:
    stale = {"HYDRO_LANES": "0", "HYDRO_ROLE": "lend", "HYDRO_PAGE_DIR": "/x", "HYDRO_BUBBLE": "1"}
    command = ["srun", "--gres=gpu:1", "sh", "-c", "env | grep ^HYDRO_ || echo none"]
    done = cluster.run(command, environment=stale, timeout_s=60)
    assert (done.returncode, done.stdout) == (0, "none\n")
