"""Slurm's hostlists."""

from __future__ import annotations

import pytest

from slurm_plugin.hostlist import MAX_HOSTS, expand_hostlist


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n1,n2", ("n1", "n2")),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[1-2,05],login", ("n1", "n2", "n05", "login")),
        ("n[08-11]", ("n08", "n09", "n10", "n11")),
        ("rack[1-2]n[1-2]", ("rack1n1", "rack1n2", "rack2n1", "rack2n2")),
        ("n[1-2].site,m-3", ("n1.site", "n2.site", "m-3")),
    ],
)
def test_names_in_order(text: str, names: tuple[str, ...]) -> None:
    assert expand_hostlist(text) == names


@pytest.mark.parametrize(
    "text", ["n[1-", "n]1[", "n[1-2", "a,,b", "n[a-b]", "n[1--2]", "a b", "n[]"]
)
def test_refuses_what_is_no_hostlist(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        expand_hostlist(text)


@pytest.mark.parametrize("text", ["n[1-999999999]", "a[1-999]b[1-999]"])
def test_refuses_to_fill_the_memory(text: str) -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_HOSTS}"):
        expand_hostlist(text)
