"""System calls that no job needs, refused by a seccomp filter with EPERM."""

from __future__ import annotations

import ctypes
import platform
import socket
import struct
from collections.abc import Sequence
from errno import ENOSYS, EPERM

from aslconvert.workers.sandbox.kernel import PR_SET_SECCOMP, prctl_pointer

_MODE_FILTER = 2
_LOAD, _EQUAL, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x45, 0x06, 0x54
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 16, 24, 32
_SOCKET_KIND = 0xF

_PACKETS = (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0)
_TCP = (
    (socket.AF_INET, socket.SOCK_STREAM, 0),
    (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP),
    # By which the C library lists interfaces. Other protocols of this family change the kernel's tables.
    (socket.AF_NETLINK, socket.SOCK_RAW, 0),
)
"""Family, kind and protocol of sockets: others of the same kind, such as SCTP, are further reaches of the kernel."""

_NAMESPACES = 0x7E020080
"""Every CLONE_NEW* flag."""

# x86-64, AArch64
_DENIED = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fspick": (433, 433),
    "fsmount": (432, 432),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def has_filter() -> bool:
    """Whether a filter is known for this processor."""
    return platform.machine() in _MACHINES


def refuse_calls(*, gpu: bool = False, loopback: bool = False) -> None:
    """Refuse the calls to this process and all it starts. Needs ``no_new_privs``.

    ``gpu`` lets it make local sockets of sequenced packets, without one of which CUDA's driver does not start.
    Databases and container engines listen on streams, which these cannot reach. ``loopback`` lets it make TCP sockets,
    and the one by which the C library lists interfaces: for a process in a network namespace of its own.

    Sockets are among them, of every family: those of files would reach a database or a container engine. ``clone3``
    does not exist here, as a filter cannot see its flags; the C library then takes ``clone``, whose new namespaces are
    refused.

    Raises:
        OSError: no filter for this processor, or the kernel has none.
    """
    if not has_filter():
        raise OSError(f"no filter of system calls for {platform.machine()}")
    allowed = [*([_PACKETS] if gpu else ()), *(_TCP if loopback else ())]
    program = _program(*_MACHINES[platform.machine()], sockets=allowed)
    code = ctypes.create_string_buffer(program, len(program))

    class _Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    told = _Program(len(program) // 8, ctypes.addressof(code))
    prctl_pointer(PR_SET_SECCOMP, _MODE_FILTER, ctypes.cast(ctypes.byref(told), ctypes.c_void_p))


def _program(column: int, architecture: int, *, sockets: Sequence[tuple[int, int, int]]) -> bytes:
    """Classic BPF: another architecture's calls kill the process, the denied ones fail, the rest passes.

    ``sockets`` are the families, kinds and protocols that may be made all the same.
    """
    lines = [
        _line(_LOAD, 0, 0, _ARCHITECTURE),
        _line(_EQUAL, 1, 0, architecture),
        _line(_RETURN, 0, 0, _KILL),
        _line(_LOAD, 0, 0, _NUMBER),
        # On x86-64 a set bit 30 calls the same functions by other numbers.
        _line(_ANY_BIT, 0, 1, 0x40000000),
        _line(_RETURN, 0, 0, _KILL),
    ]
    for family, kind, protocol in sockets:
        lines += [
            _line(_LOAD, 0, 0, _NUMBER),
            _line(_EQUAL, 0, 8, _DENIED["socket"][column]),
            _line(_LOAD, 0, 0, _FIRST_ARGUMENT),
            _line(_EQUAL, 0, 6, family),
            _line(_LOAD, 0, 0, _SECOND_ARGUMENT),
            _line(_AND, 0, 0, _SOCKET_KIND),
            _line(_EQUAL, 0, 3, kind),
            _line(_LOAD, 0, 0, _THIRD_ARGUMENT),
            _line(_EQUAL, 0, 1, protocol),
            _line(_RETURN, 0, 0, _ALLOW),
        ]
    # What was looked at may be an argument by now.
    lines += [_line(_LOAD, 0, 0, _NUMBER)]
    for numbers in _DENIED.values():
        lines += [_line(_EQUAL, 0, 1, numbers[column]), _line(_RETURN, 0, 0, _ERRNO | EPERM)]
    lines += [_line(_EQUAL, 0, 1, _CLONE3[column]), _line(_RETURN, 0, 0, _ERRNO | ENOSYS)]
    lines += [
        _line(_EQUAL, 0, 3, _CLONE[column]),
        _line(_LOAD, 0, 0, _FIRST_ARGUMENT),
        _line(_ANY_BIT, 0, 1, _NAMESPACES),
        _line(_RETURN, 0, 0, _ERRNO | EPERM),
        _line(_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(lines)


def _line(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
