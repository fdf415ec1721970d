"""setup.sh on an imitated host: the real script, overlays on /usr and /etc, fake package tools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import hydro_hpc.devcluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays, which only root can"),
    pytest.mark.skipif(
        "overlay" not in Path("/proc/filesystems").read_text(), reason="kernel has no overlayfs"
    ),
]

SCRIPT = Path(hydro_hpc.devcluster.__file__).parent / "setup.sh"
POLICY = "/usr/sbin/policy-rc.d"
OLD_POLICY = "#!/bin/sh\n[ $1 = kept ] && exit 104\nexit 0\n"

# Everything the tests need to know ends up in $NOTES. $MISHAP happens while packages are installed.
TOOLS = {
    "/usr/bin/dpkg-query": '#!/bin/sh\n[ ! -e "$NOTES/installed" ] || echo installed\n',
    "/usr/bin/dpkg": "#!/bin/sh\n",
    "/usr/bin/systemctl": '#!/bin/sh\necho "systemctl $*" >>"$NOTES/disabled"\n',
    "/usr/sbin/update-rc.d": '#!/bin/sh\necho "update-rc.d $*" >>"$NOTES/disabled"\n',
    "/usr/bin/apt-get": """#!/bin/sh
echo "$*" >>"$NOTES/apt"
case "$*" in *install*) ;; *) exit 0 ;; esac
touch /lib/systemd/system/fresh.service /etc/init.d/fresh
chmod +x /etc/init.d/fresh
for service in fresh.service fresh kept; do
    /usr/sbin/policy-rc.d --quiet $service start
    echo "$service $?" >>"$NOTES/asked"
done
eval "$MISHAP"
touch "$NOTES/installed"
""",
}
MOUNTS = """set -e
for top in usr etc; do
    mkdir -p $T/$top $T/$top.work
    mount -t overlay overlay -o lowerdir=/$top,upperdir=$T/$top,workdir=$T/$top.work /$top
done
rm -f /usr/sbin/policy-rc.d /usr/sbin/policy-rc.d.before-hydro /usr/sbin/.hydro-services-before
rm -f /usr/bin/sudo
touch /etc/init.d/kept
cp $SCRIPT /usr/share/setup.sh
"""


class Host:
    """One imitated host; what is written to it stays between runs, the real one is untouched."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.notes = directory / "notes"
        self.notes.mkdir()
        self._prepare = ""

    def has_policy(self, text: str) -> None:
        self._prepare = f"cat >{POLICY} <<'END'\n{text}END\nchmod 0755 {POLICY}\n"

    def run(self, *, mishap: str = "", runs: int = 1, user: str = "root") -> Outcome:
        """Runs setup.sh `runs` times in a row (the mishap befalls the first), then looks around."""
        lines = [MOUNTS, self._prepare]
        for path, text in TOOLS.items():
            lines.append(f"cat >{path} <<'END'\n{text}END\nchmod 0755 {path}\n")
        for number in range(runs):
            now = mishap if number == 0 else ""
            lines.append(f"export MISHAP='{now}'; set +e")
            lines.append(
                f"setpriv --reuid={user} /bin/sh /usr/share/setup.sh; echo $? >>$NOTES/status"
            )
        lines.append(f"cat {POLICY} >$NOTES/policy 2>/dev/null")
        lines.append("ls -a /usr/sbin | grep -e hydro -e policy >$NOTES/left || true")
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "T": str(self._directory)}
        environment |= {"NOTES": str(self.notes), "SCRIPT": str(SCRIPT)}
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=private", "/bin/sh", "-c", "\n".join(lines)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
        )
        return Outcome(self.notes, done.stderr)


class Outcome:
    """What a run left on the imitated host."""

    def __init__(self, notes: Path, stderr: str) -> None:
        self._notes = notes
        self.stderr = stderr
        self.statuses = [int(line) for line in self.note("status")]

    def note(self, name: str) -> list[str]:
        path = self._notes / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def policy(self) -> str:
        return (self._notes / "policy").read_text()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_nothing_is_done_and_nothing_said_when_everything_is_there(host: Host) -> None:
    (host.notes / "installed").touch()
    outcome = host.run()
    assert outcome.statuses == [0]
    assert outcome.stderr == ""
    assert outcome.note("apt") == []


def test_new_services_are_neither_started_nor_enabled(host: Host) -> None:
    outcome = host.run()
    assert outcome.statuses == [0], outcome.stderr
    assert outcome.note("asked") == ["fresh.service 101", "fresh 101", "kept 0"]
    assert outcome.note("disabled") == [
        "systemctl --quiet disable fresh.service",
        "update-rc.d fresh disable",
    ]
    assert outcome.note("left") == []


def test_the_hosts_own_policy_decides_on_its_services_and_is_put_back(host: Host) -> None:
    host.has_policy(OLD_POLICY)
    outcome = host.run()
    assert outcome.note("asked") == ["fresh.service 101", "fresh 101", "kept 104"]
    assert outcome.policy == OLD_POLICY
    assert outcome.note("left") == ["policy-rc.d"]


@pytest.mark.parametrize(("signal", "status"), [("INT", 130), ("TERM", 130)])
def test_policy_is_put_back_and_services_disabled_on_interruption(
    host: Host, signal: str, status: int
) -> None:
    host.has_policy(OLD_POLICY)
    outcome = host.run(mishap=f"kill -{signal} $PPID")
    assert outcome.statuses == [status]
    assert outcome.policy == OLD_POLICY
    assert outcome.note("left") == ["policy-rc.d"]
    assert "update-rc.d fresh disable" in outcome.note("disabled")


@pytest.mark.parametrize("after", ["", "touch $NOTES/installed"])
def test_the_next_run_mends_what_a_killed_one_left(host: Host, after: str) -> None:
    host.has_policy(OLD_POLICY)
    outcome = host.run(mishap=f"{after}; kill -KILL $PPID" if after else "kill -KILL $PPID", runs=2)
    assert outcome.statuses == [137, 0], outcome.stderr
    assert outcome.policy == OLD_POLICY
    assert outcome.note("left") == ["policy-rc.d"]
    assert "update-rc.d fresh disable" in outcome.note("disabled")


def test_a_failed_installation_is_said_and_leaves_no_policy(host: Host) -> None:
    outcome = host.run(mishap="echo E: no such package; exit 100")
    assert outcome.statuses == [1]
    assert "E: no such package" in outcome.stderr
    assert "hydro: these packages could not be installed: slurmctld" in outcome.stderr
    assert outcome.note("left") == []


def test_the_hosts_packages_are_never_removed_for_ours(host: Host) -> None:
    install = [line for line in host.run().note("apt") if "install" in line]
    assert len(install) == 1
    assert "--no-remove" in install[0]
    assert {"slurmctld", "munge", "libpmix-dev"} <= set(install[0].split())


def test_without_root_and_sudo_the_missing_packages_are_named(host: Host) -> None:
    outcome = host.run(user="nobody")
    assert outcome.statuses == [1]
    assert "run as root; these packages are missing: slurmctld" in outcome.stderr
