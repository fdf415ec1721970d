"""The fields of a page as they are now, read without a mapping.

Who owns a file can truncate it, and a process that then touches its mapping dies of SIGBUS. A
worker has to map what it waits on; its supervisor must outlive that, so it reads.
"""

from __future__ import annotations

import os
import weakref

from hydro_hpc.page import BadPageError, Page
from hydro_hpc.page_layout import RING_OFFSET, SIZES, PageKind


class PageHead:
    """All of a page but its ring. Raises BadPageError if the file is not there."""

    def __init__(self, path: str, kind: PageKind) -> None:
        self._path = path
        self._kind = kind
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise BadPageError(f"{path}: {error.strerror}") from None
        weakref.finalize(self, os.close, self._fd)

    def read(self) -> Page:
        """Returns a copy, in about 3 us. Raises BadPageError if the file has been truncated."""
        data = os.pread(self._fd, RING_OFFSET, 0)
        if len(data) != RING_OFFSET:
            raise BadPageError(f"{self._path}: has been truncated to {len(data)} bytes")
        return Page(data, self._kind)

    def check_in_place(self) -> None:
        """Raises BadPageError if the file has been truncated, replaced or removed."""
        size = os.fstat(self._fd).st_size
        if size != SIZES[self._kind]:
            raise BadPageError(f"{self._path}: has been truncated to {size} bytes")
        try:
            is_same = os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except OSError as error:
            raise BadPageError(f"{self._path}: {error.strerror}") from None
        if not is_same:
            raise BadPageError(f"{self._path}: has been replaced by another file")
