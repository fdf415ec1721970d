"""passwd, group and hosts as the cluster's namespaces see them."""

from __future__ import annotations

from pathlib import Path

from hydro_hpc.devcluster.host_etc import (
    FIRST_UID,
    free_uids,
    group_text,
    hosts_text,
    passwd_text,
)
from hydro_hpc.devcluster.spec import ClusterSpec, Layout

PASSWD = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/bash\n+@nis\n"
GROUP = "root:x:0:\nstaff:x:50:alice\n"
UIDS = {"alice": FIRST_UID, "bob": FIRST_UID + 1}


def test_uids_that_a_user_or_a_group_of_the_host_has_are_passed_over() -> None:
    passwd = f"eva:x:{FIRST_UID}:100::/:/bin/sh\n"
    group = f"lab:x:{FIRST_UID + 2}:eva\n"
    assert free_uids(passwd, group, 2) == [FIRST_UID + 1, FIRST_UID + 3]


def test_a_host_user_of_the_same_name_is_not_the_clusters() -> None:
    lines = passwd_text(PASSWD, UIDS, Layout(Path("/c"))).splitlines()
    assert lines[0].startswith("root:")
    assert [line for line in lines if line.startswith("alice:")] == [
        f"alice:x:{FIRST_UID}:{FIRST_UID}::/c/home/alice:/bin/sh"
    ]
    assert "+@nis" not in lines


def test_groups_of_the_host_are_kept() -> None:
    assert group_text(GROUP, UIDS).splitlines()[:2] == ["root:x:0:", "staff:x:50:alice"]


def test_all_nodes_and_the_login_side_are_this_host() -> None:
    first = hosts_text(ClusterSpec(nodes=3)).splitlines()[0].split()
    assert first == ["127.0.0.1", "localhost", "login", "n1", "n2", "n3"]
