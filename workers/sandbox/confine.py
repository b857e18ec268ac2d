"""Gives up rights, one after the other, and tells which of them the system let go."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from aslconvert.workers.sandbox.kernel import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    MS_NOSUID_NODEV_NOEXEC,
    MS_PRIVATE_ALL,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    drop_capabilities,
    mount,
    prctl,
    unshare,
)
from aslconvert.workers.sandbox.landlock import TRUNCATE_VERSION, restrict_files
from aslconvert.workers.sandbox.limits import Limits
from aslconvert.workers.sandbox.seccomp import refuse_calls

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys", "/dev/urandom")
"""What a Python with its libraries reads, besides its own folders."""

DEVICES = ("/dev/null", "/dev/zero")
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-caps")

OWN_NETWORK = "namespace"
"""As ``Confinement.network``: there is nothing in it but the loopback interface of the job itself."""

MOST_DESCRIPTORS = 256
_BY_SIGNAL = 128

_INTERFACE_UP = 0x1
_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914


@dataclass(frozen=True)
class Confinement:
    """What holds a process: ``files``, ``network``, ``calls`` and ``processes`` name the means, "" where there is none.

    ``missing`` says why of each that could not be had, and of what a means leaves open on this kernel.
    """

    files: str = ""
    network: str = ""
    calls: str = ""
    processes: str = ""
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing: files, network and system calls are held by the kernel."""
        return bool(self.files and self.network and self.calls and self.processes) and not self.missing

    def to_json(self) -> dict[str, object]:
        """As an event carries it."""
        return {**asdict(self), "whole": self.whole}


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends; ``parent`` is that one's process.

    Raises:
        SystemExit: it has ended already.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


def confine(
    *,
    writable: Iterable[Path],
    readable: Iterable[Path] = (),
    limits: Limits,
    gpu: bool = False,
    loopback: bool = False,
) -> Confinement:
    """Leave this process its own folders, no network, no other processes and few system calls, as far as can be had.

    ``gpu`` leaves it what CUDA's driver needs besides: the devices, the names of its threads, one kind of local socket.

    ``loopback`` leaves it TCP in a network namespace of its own, where nobody else listens; without one it gets none.

    Returns in a child of the calling process, in a process namespace of its own where that can be had: whatever it
    starts then dies with it, and it dies with the caller, which waits for it and takes over its exit status. Must be
    called while there is one thread, before any library starts others.
    """
    missing: dict[str, str] = {}
    network = _try(missing, "network", _new_namespaces)
    processes = ""
    if network:
        processes = _first_process()
        # Without it the command lines of all processes can be read in the machine's own.
        _try(missing, "proc", _own_proc)
        _second_process()
    else:
        missing["processes"] = missing["network"]
    loopback = loopback and bool(network)
    limits.apply()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    folders = [Path(path) for path in writable]
    own = [*map(Path, SYSTEM), *python_folders(), *readable]
    if gpu:
        folders += [*map(Path, GPU_DEVICES), *sorted(Path("/dev").glob("nvidia[0-9]*")), _own_threads()]
    files = _try(missing, "files", lambda: f"landlock {_landlock(own, folders, missing, tcp=loopback)}")
    calls = _try(missing, "calls", lambda: _named(lambda: refuse_calls(gpu=gpu, loopback=loopback), "seccomp"))
    with contextlib.suppress(OSError):
        drop_capabilities()
    if not network and calls:
        # No socket can be opened, although the network is still there.
        network = "seccomp"
    return Confinement(files=files, network=network, calls=calls, processes=processes, missing=missing)


def python_folders() -> list[Path]:
    """Where this interpreter's modules lie, the project's own among them wherever it is installed."""
    import aslconvert.workers

    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path}
    found = {Path(place).resolve() for place in places if place and Path(place).is_dir()}
    # In development the packages are links into the work tree.
    for package in aslconvert.workers.__path__:
        for sibling in Path(package).parent.iterdir():
            if sibling.is_dir() and not sibling.name.startswith((".", "_")):
                found |= {sibling.parent.resolve(), sibling.resolve()}
    found.discard(Path("/"))
    return sorted(found)


def _landlock(readable: list[Path], writable: list[Path], missing: dict[str, str], *, tcp: bool) -> int:
    version = restrict_files(readable=readable, writable=[*map(Path, DEVICES), *writable], tcp=tcp)
    if version < TRUNCATE_VERSION:
        missing["truncate"] = f"Landlock {version} lets files be emptied that cannot be written"
    return version


def _own_threads() -> Path:
    """The folder of this process's threads, whose names CUDA's driver writes there."""
    folder = Path("/proc/self/task")
    # A rule holds for a folder as it is now: left open for as long as the process lives, it is not made anew.
    os.open(folder, os.O_PATH | os.O_CLOEXEC)
    return folder


def _new_namespaces() -> str:
    user, group = os.getuid(), os.getgid()
    kinds = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNS
    if os.geteuid() == 0:
        unshare(kinds)
    else:
        unshare(kinds | CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    # Changed rights may have cleared it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        _loopback_up()
    return OWN_NETWORK


def _first_process() -> str:
    """Go on in a child, the first of the new namespace; the caller waits for it outside. When it ends, so do all."""
    ready, go = os.pipe(), os.pipe()
    first = os.fork()
    if first:
        os.close(ready[1])
        os.close(go[0])
        os.read(ready[0], 1)
        os.write(go[1], b"1")
        _end_as(_status_of(first))
    os.close(ready[0])
    os.close(go[1])
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A parent that ended before that call would not be noticed: it cannot answer.
    os.write(ready[1], b"1")
    if not os.read(go[0], 1):
        raise SystemExit("the outer process is gone")
    os.close(ready[1])
    os.close(go[0])
    return "namespace"


def _own_proc() -> str:
    """The first process mounts a view of its own namespace alone, where the system lets it."""
    mount("", "/", MS_PRIVATE_ALL)
    mount("proc", "/proc", MS_NOSUID_NODEV_NOEXEC)
    return "proc"


def _second_process() -> None:
    """Go on in a child once more: the kernel spares the first one signals that any other process would end by."""
    second = os.fork()
    if second:
        os._exit(_status_of(second))


def _status_of(child: int) -> int:
    """Waits for ``child`` and whatever orphans come; its exit status, or 128 and the signal that it ended by."""
    # The group's signals reach the child too: here they are of no use.
    for quiet in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(quiet, signal.SIG_IGN)
    for number in range(3, MOST_DESCRIPTORS):
        with contextlib.suppress(OSError):
            os.close(number)
    ended = status = 0
    while ended != child:
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _BY_SIGNAL - code


def _end_as(status: int) -> NoReturn:
    """End with a status of ``_status_of``: by the signal where there was one."""
    if status > _BY_SIGNAL:
        number = status - _BY_SIGNAL
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(status)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _INTERFACE_UP))


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")


def _named(apply: Callable[[], None], name: str) -> str:
    apply()
    return name


def _try(missing: dict[str, str], what: str, apply: Callable[[], str]) -> str:
    try:
        return apply()
    except OSError as error:
        missing[what] = str(error)
        return ""
