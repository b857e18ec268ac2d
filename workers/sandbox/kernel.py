"""The few calls of Linux that Python has no name for."""

from __future__ import annotations

import ctypes
import os

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
MS_PRIVATE_ALL = 0x40000 | 0x4000

_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def prctl(option: int, *values: int) -> int:
    """Raises OSError."""
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(ctypes.c_int(option), *padded))


def prctl_pointer(option: int, value: int, pointer: ctypes.c_void_p) -> int:
    """Raises OSError."""
    zero = ctypes.c_ulong(0)
    return _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), pointer, zero, zero))


def unshare(flags: int) -> None:
    """Raises OSError where the kernel, a profile or missing rights forbid it."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(kind: str, place: str, flags: int) -> None:
    """Mount a file system that has no source, or change how one is mounted. Raises OSError."""
    none = kind.encode() or None
    _checked(_libc.mount(b"none", place.encode(), none, ctypes.c_ulong(flags), None))


def syscall(number: int, *values: object) -> int:
    """Raises OSError."""
    return _checked(_libc.syscall(ctypes.c_long(number), *values))


def drop_capabilities() -> None:
    """Give up every right that root has beyond owning files, also for programs that are started later."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            # Not one of this kernel, or there is nothing left to drop with.
            break
    none = (_Capabilities * 2)()
    _checked(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), none))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
