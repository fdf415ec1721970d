"""hydro.lua with a made-up slurmctld: what it marks, holds, refuses and leaves alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import slurm_plugin

SOURCES = Path(slurm_plugin.__file__).parent / "job_submit"
LUA = next((name for name in ("lua5.4", "lua5.1", "lua") if shutil.which(name)), None)

pytestmark = pytest.mark.skipif(LUA is None, reason="needs a Lua interpreter")

LENDER = "_SLURM_SPANK_OPTION_hydro_hydro_bubble=(null)"
ROOT, ALICE = 0, 60700

HARNESS = """
slurm = { SUCCESS = 0, ERROR = -1, ESLURM_ACCESS_DENIED = 2002 }
function slurm.log_user(format, ...) print("user: " .. string.format(format, ...)) end
function slurm.log_info(format, ...) print("info: " .. string.format(format, ...)) end
function slurm.log_error(format, ...) print("error: " .. string.format(format, ...)) end
package.path = SOURCES .. "/?.lua;" .. package.path
local hydro = require("hydro")
hydro.settings.max_bubbles = 16
hydro.settings.slurm_user_id = 64030
local before = {}
for name, value in pairs(JOB) do before[name] = value end
print("rc: " .. CALL(hydro))
for name, value in pairs(JOB) do
    if before[name] ~= value then print(name .. "= " .. tostring(value)) end
end
"""


@dataclass
class Outcome:
    code: int
    message: str  # to the user
    log: str
    changed: dict[str, str]


def as_lua(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{as_lua(k)}] = {as_lua(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def call(function: str, job: Mapping[str, Any], *, prepare: str = "") -> Outcome:
    assert LUA is not None
    script = (
        f"local SOURCES, JOB = {as_lua(str(SOURCES))}, {as_lua(job)}\n{prepare}\n"
        f"local function CALL(hydro) return {function} end\n{HARNESS}"
    )
    done = subprocess.run([LUA, "-"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcome = Outcome(code=99, message="", log="", changed={})
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        if key == "rc:":
            outcome.code = int(value)
        elif key == "user:":
            outcome.message = value
        elif key in ("info:", "error:"):
            outcome.log = value
        else:
            outcome.changed[key.rstrip("=")] = value
    return outcome


def submit(*options: str, prepare: str = "", **fields: Any) -> Outcome:
    env = dict(enumerate(options))
    job = {"spank_job_env": env, "spank_job_env_size": len(env), "priority": 0xFFFFFFFE} | fields
    return call("hydro.submit(JOB, {}, 60700)", job, prepare=prepare)


def bubbles(wish: str) -> str:
    return f"_SLURM_SPANK_OPTION_hydro_bubbles={wish}"


def modify(record: Mapping[str, Any], user_id: int = ALICE, **fields: Any) -> Outcome:
    unset = {"priority": 0xFFFFFFFE, "min_nodes": 0xFFFFFFFE, "num_tasks": 0xFFFFFFFE}
    function = f"hydro.modify(JOB, {as_lua({'job_id': 7, **record})}, {{}}, {user_id})"
    return call(function, unset | fields)


GANG = {"admin_comment": "hydro:want=2-4"}


def test_a_job_without_our_options_passes_untouched() -> None:
    outcome = submit(tres_per_node="gres:gpu:2", partition="main")
    assert (outcome.code, outcome.changed, outcome.message) == (0, {}, "")


@pytest.mark.parametrize(
    "asked",
    [
        {"gres": "gpu:2"},
        {"tres_per_node": "gres:gpu:2"},
        {"tres_per_node": "gres/gpu:2"},
        {"tres_per_node": "gres/gpu=2"},
        {"tres_per_node": "gres:nvme:1,gres:gpu:a100:2"},
        {"tres_per_job": "gres:gpu:4"},
        {"tres_per_socket": "gres:gpu:1"},
        {"tres_per_task": "gres/gpu:1"},
        {"tres_per_node": "gpu"},
    ],
)
def test_a_lender_is_marked_however_it_asks_for_gpus(asked: dict[str, str]) -> None:
    outcome = submit(LENDER, **asked)
    assert (outcome.code, outcome.changed) == (0, {"admin_comment": "hydro:lend"})


def test_a_lender_with_a_study_is_marked_with_its_absolute_path() -> None:
    option = "_SLURM_SPANK_OPTION_hydro_hydro_bubble=study.py"
    outcome = submit(option, "HYDRO_BUBBLE=/home/a/study.py", gres="gpu:1")
    assert outcome.changed == {"admin_comment": "hydro:lend;study=/home/a/study.py"}


@pytest.mark.parametrize("path", ["/a b.py", "/a;lend.py", "/a'b.py"])
def test_a_forged_study_path_is_refused(path: str) -> None:
    outcome = submit(LENDER, f"HYDRO_BUBBLE={path}", gres="gpu:1")
    assert outcome.code != 0
    assert "characters other than" in outcome.message


@pytest.mark.parametrize("text", ["0.5%", "2%", "99.9%", "0.25%,study.py", "1%,a,b.py"])
def test_a_lender_may_choose_its_bound(text: str) -> None:
    outcome = submit(f"_SLURM_SPANK_OPTION_hydro_hydro_bubble=bound={text}", gres="gpu:1")
    assert (outcome.code, outcome.changed) == (0, {"admin_comment": "hydro:lend"})


@pytest.mark.parametrize(
    "text",
    ["", "x%", "0.5", "0%", "100%", "-1%", "1.2.3%", "1e1%", ".%", "%", "0.5%,", "0.5%x", "1" * 99],
)
def test_what_is_no_bound_is_refused(text: str) -> None:
    outcome = submit(f"_SLURM_SPANK_OPTION_hydro_hydro_bubble=bound={text}", gres="gpu:1")
    assert (outcome.code, outcome.changed) == (-1, {})
    assert outcome.message == (
        f"hydro: --hydro-bubble=bound={text} names no slowdown; write --hydro-bubble=bound=0.5%, "
        "or any other percentage below 100%, and ,STUDY behind it for a study"
    )


@pytest.mark.parametrize("asked", [{}, {"gres": "nvme:1"}, {"tres_per_node": "gres:gpux:1"}])
def test_a_lender_without_gpus_is_refused(asked: dict[str, str]) -> None:
    outcome = submit(LENDER, **asked)
    assert (outcome.code, outcome.changed) == (-1, {})
    assert outcome.message == (
        "hydro: --hydro-bubble lends the bubbles of GPUs, and this job asks for none; "
        "add --gres=gpu:N or --gpus=N, or leave --hydro-bubble out"
    )


@pytest.mark.parametrize(("wish", "mark"), [("2", "2-2"), ("2-4", "2-4"), ("16", "16-16")])
def test_a_gang_is_held_in_the_tenant_partition(wish: str, mark: str) -> None:
    outcome = submit(bubbles(wish), partition="main", requeue=0)
    assert outcome.code == 0
    assert outcome.changed == {
        "partition": "bubble",
        "priority": "0",
        "requeue": "1",
        "admin_comment": f"hydro:want={mark}",
    }


@pytest.mark.parametrize("wish", ["0", "x", "4-2", "", "(null)", "1-2-3", "9999999", "-1", "1;2"])
def test_a_forged_wish_is_refused(wish: str) -> None:
    outcome = submit(bubbles(wish))
    assert outcome.code == -1
    assert "is not a number of devices" in outcome.message


def test_more_devices_than_the_cluster_lends_are_refused() -> None:
    outcome = submit(bubbles("999"))
    assert outcome.message == (
        "hydro: --bubbles=999 asks for more devices than this cluster lends (16); ask for fewer"
    )
    assert submit(bubbles("4-999")).code == 0


@pytest.mark.parametrize(
    "asked", [{"gres": "gpu:1"}, {"tres_per_job": "gres:gpu:1"}, {"gres": "nvme:1"}]
)
def test_a_gang_asks_for_no_gres(asked: dict[str, str]) -> None:
    outcome = submit(bubbles("2"), **asked)
    assert outcome.code == -1
    assert "finds the devices itself" in outcome.message


def test_a_gang_is_not_held_by_its_user() -> None:
    outcome = submit(bubbles("2"), priority=0)
    assert outcome.code == -1
    assert "--hold would be lost" in outcome.message
    assert submit(priority=0).changed == {}


def test_a_gang_is_no_job_array() -> None:
    outcome = submit(bubbles("2"), array_inx="0-3")
    assert outcome.code == -1
    assert "a job array cannot be taken" in outcome.message
    assert submit(array_inx="0-3").changed == {}


@pytest.mark.parametrize("options", [(), (LENDER,), (bubbles("2"),)])
@pytest.mark.parametrize("gres", ["bubble", "bubble:1", "gpu:1,bubble:g0:1", "gres:bubble:g0:1"])
def test_bubbles_cannot_be_asked_for_by_hand(options: tuple[str, ...], gres: str) -> None:
    outcome = submit(*options, tres_per_node=gres)
    assert outcome.code == -1
    assert "use sbatch --bubbles=N" in outcome.message


@pytest.mark.parametrize("partition", ["bubble", "main,bubble"])
@pytest.mark.parametrize("options", [(), (LENDER,)])
def test_the_tenant_partition_is_closed_to_others(options: tuple[str, ...], partition: str) -> None:
    outcome = submit(*options, partition=partition, gres="gpu:1")
    assert outcome.code == -1
    assert "partition bubble is for studies" in outcome.message
    assert submit(partition="bubbles").code == 0


def test_both_options_together_are_refused() -> None:
    outcome = submit(LENDER, bubbles("2"), gres="gpu:1")
    assert outcome.code == -1
    assert "submit two jobs" in outcome.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", 0xFFFFFFFF),
        ("priority", 0),
        ("priority", 100),
        ("gres", "bubble:g1:1"),
        ("tres_per_node", "gres:bubble:1"),
        ("tres_per_job", "gres:gpu:1"),
        ("req_nodes", "n2"),
        ("exc_nodes", "n2"),
        ("min_nodes", 2),
        ("num_tasks", 4),
        ("features", "fast"),
        ("partition", "main"),
        ("admin_comment", "hydro:want=9-9"),
    ],
)
def test_only_admins_change_where_a_gang_runs(field: str, value: Any) -> None:
    outcome = modify(GANG, **{field: value})
    assert outcome.code == 2002
    assert "job 7 refused" in outcome.log
    assert modify(GANG, ROOT, **{field: value}).code == 0
    assert modify(GANG, 64030, **{field: value}).code == 0


@pytest.mark.parametrize(
    ("field", "value"), [("comment", "hydro:failed=x"), ("name", "n"), ("time_limit", 5)]
)
def test_a_gangs_owner_may_change_the_rest(field: str, value: Any) -> None:
    assert modify(GANG, **{field: value}).code == 0


def test_other_jobs_are_released_freely_but_stay_out_of_bubbles() -> None:
    other = {"admin_comment": ""}
    assert modify(other, priority=0xFFFFFFFF, partition="main", min_nodes=2).code == 0
    assert modify(other, partition="bubble").code == 2002
    assert modify(other, gres="bubble:1").code == 2002
    assert modify({}, priority=5).code == 0


BROKEN = "JOB = setmetatable({}, {__index = function(_, k) %s error('broken ' .. k) end})"
OURS = (
    "if k == 'spank_job_env_size' then return 1 "
    "elseif k == 'spank_job_env' then return {[0] = %s} end"
)


def test_an_error_refuses_our_jobs_only() -> None:
    assert submit(prepare=BROKEN % "").code == 0
    for option in (LENDER, bubbles("2")):
        outcome = submit(prepare=BROKEN % (OURS % as_lua(option)))
        assert outcome.code == -1
        assert "tell your admin" in outcome.message
        assert "broken" in outcome.log


def test_the_slurm_user_is_whoever_runs_slurmctld() -> None:
    assert LUA is not None
    script = (
        f"package.path = {as_lua(str(SOURCES))} .. '/?.lua;' .. package.path\n"
        "slurm = {SUCCESS = 0, ESLURM_ACCESS_DENIED = 2002, log_info = function() end}\n"
        "local h, r = require('hydro'), {admin_comment = 'hydro:want=1-1'}\n"
        "local own = tonumber(io.popen('id -u'):read('*a'))\n"
        "print(h.modify({priority = 5}, r, {}, own), h.modify({priority = 5}, r, {}, own + 1))\n"
    )
    done = subprocess.run([LUA, "-"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "2002"]


def test_the_sample_hands_both_calls_to_the_module() -> None:
    assert LUA is not None
    script = (
        f"package.path = {as_lua(str(SOURCES))} .. '/?.lua;' .. package.path\n"
        "slurm = {SUCCESS = 0, ERROR = -1, ESLURM_ACCESS_DENIED = 2002}\n"
        "function slurm.log_info() end\n"
        "function slurm.log_user(...) print(string.format(...)) end\n"
        f"print(dofile({as_lua(str(SOURCES / 'job_submit.lua'))}))\n"
        "print(slurm_job_submit({partition = 'bubble'}, {}, 1))\n"
        "print(slurm_job_modify({priority = 1}, {admin_comment = 'hydro:want=1-1'}, {}, 12345))\n"
    )
    done = subprocess.run([LUA, "-"], input=script, capture_output=True, text=True, check=True)
    first, message, refused, denied = done.stdout.splitlines()
    assert (first, refused, denied) == ("0", "-1", "2002")
    assert message.startswith("hydro: partition bubble is for studies")
