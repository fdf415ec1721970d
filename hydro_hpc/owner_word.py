"""Writes the owner word on this node's lanes: `python -m hydro_hpc.owner_word JOB pause|resume`.

`hydro pause` runs it on every node of the job. It imports next to nothing, since a pause is to take
effect within 100 ms of reaching the node: the interpreter and this take 40 ms, the whole command
line of `hydro` 220 ms.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from hydro_hpc.errors import EXIT_DONE, LaneError
from hydro_hpc.page import BadPageError, Page, page_path
from hydro_hpc.page_layout import PageKind, Word

DEFAULT_PAGE_DIR: Final = "/run/hydro"  # of a site; HYDRO_PAGE_DIR names another one
WORDS: Final = {"pause": Word.HOLD, "resume": Word.RUN}


def set_owner_word(lanes: Iterable[str], job: int, word: Word) -> int:
    """Writes the word on each of these lanes that `job` lends; returns how many those are.

    Raises LaneError if there is none, or if this user may not write them.
    """
    num_changed = 0
    for lane in lanes:
        try:
            site = Page.read_copy(page_path(lane, PageKind.SITE), PageKind.SITE)
        except BadPageError:
            continue  # not lent, or just being made
        if site.get("job_id") != job or site.get("site_word") == Word.GONE:
            continue
        try:
            stage = Page.map_for_changing(page_path(lane, PageKind.STAGE), PageKind.STAGE)
        except BadPageError as error:
            raise LaneError(f"job {job} cannot be switched by you: {error}") from None
        stage.words[stage.word_index("owner_word")] = word
        stage.close()
        num_changed += 1
    if not num_changed:
        raise LaneError(f"job {job} lends nothing on {os.uname().nodename} yet; see: hydro status")
    return num_changed


def lanes_below(page_dir: str) -> list[str]:
    """Returns the directories of the lanes that are there now."""
    try:
        return [f"{page_dir}/{name}" for name in os.listdir(page_dir) if name.startswith("gpu")]
    except OSError:
        return []


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code (`hydro_hpc.errors`)."""
    job, verb = int(arguments[0]), arguments[1]
    page_dir = os.environ.get("HYDRO_PAGE_DIR", DEFAULT_PAGE_DIR)
    try:
        count = set_owner_word(lanes_below(page_dir), job, WORDS[verb])
    except LaneError as error:
        print(f"hydro: {error}", file=sys.stderr)
        return error.exit_code
    devices = f"{count} device{'s' * (count != 1)}"
    print(f"{os.uname().nodename}: {devices} of job {job} {verb}d")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
