"""Sleeping until a word of a shared page changes: futex on Linux, and a fake for tests.

A waiter may map the page read-only and belong to another user (Linux allows both); no private
futexes, since the two sides are different processes.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Final, Protocol

from hydro_hpc.page import Page

_SYS_FUTEX: Final = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), 0)
_FUTEX_WAIT: Final = 0
_FUTEX_WAKE: Final = 1
_WAKE_ALL: Final = 2**31 - 1

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class Waiter(Protocol):
    """What a gate sleeps on."""

    def wait_change(self, seen: int, timeout_s: float) -> None:
        """Returns when the word is not `seen` any more, was woken, or `timeout_s` is over."""


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class FutexWord:
    """One 32-bit word of a mapped page, to wait on and to wake the waiters of.

    Wakes that come for no reason are allowed: callers check their condition again.
    """

    def __init__(self, page: Page, name: str) -> None:
        if not _SYS_FUTEX:
            raise OSError(
                f"hydro: futex is not known on {platform.machine()}; use x86_64 or aarch64"
            )
        self._page = page  # keeps the mapping alive
        self._address = ctypes.c_void_p(_address_of(page) + 4 * page.word_index(name))
        self._timeout = _Timespec(0, 0)  # made once: who waits, waits as soon as it can
        self._timeout_at = ctypes.byref(self._timeout)

    def wait_change(self, seen: int, timeout_s: float) -> None:
        """Sleeps while the word is `seen`, at most `timeout_s`; the GIL is released."""
        timeout = self._timeout
        timeout.tv_sec = seconds = int(timeout_s)
        timeout.tv_nsec = int((timeout_s - seconds) * 1e9)
        _syscall(_SYS_FUTEX, self._address, _FUTEX_WAIT, seen, self._timeout_at, None, 0)

    def wake_all(self) -> None:
        """Wakes every waiter; costs about 1 us when nobody waits, 11 us when somebody does."""
        _syscall(_SYS_FUTEX, self._address, _FUTEX_WAKE, _WAKE_ALL, None, None, 0)


def _address_of(page: Page) -> int:
    """Returns the address of a mapping, which may be read-only (so ctypes' own from_buffer refuses
    it).
    """
    view = _PyBuffer()
    get_buffer = ctypes.pythonapi.PyObject_GetBuffer
    get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
    get_buffer(page.mapping(), ctypes.byref(view), 0)
    address = int(view.buf)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return address


class _PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )
