"""What a job might try: each function is an engine that reports whether it could."""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tell = Callable[..., None]


def echo(*, kind: str, payload: dict[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    tell("stage", name="echo")
    (folder / "own.txt").write_text("mine")
    return {"kind": kind, "payload": payload, "environment": dict(os.environ), "pid": os.getpid(), "cwd": os.getcwd()}


def attempts(*, kind: str, payload: dict[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    outside = Path(payload["outside"])
    tried: dict[str, Callable[[], object]] = {
        "connect": lambda: socket.create_connection(("127.0.0.1", payload["port"]), timeout=2),
        "unix socket": lambda: socket.socket(socket.AF_UNIX).connect(payload["unix"]),
        "write outside": lambda: outside.joinpath("new.txt").write_text("x"),
        "change outside": lambda: outside.joinpath("there.txt").write_text("x"),
        "read outside": lambda: outside.joinpath("there.txt").read_text(),
        "empty outside": lambda: os.truncate(outside / "there.txt", 0),
        "parent's command line": lambda: Path(f"/proc/{payload['parent']}/cmdline").read_bytes(),
        "remove outside": lambda: outside.joinpath("there.txt").unlink(),
        "link out": lambda: (folder / "link").symlink_to(outside / "there.txt") or (folder / "link").read_text(),
        "parent's environment": lambda: Path(f"/proc/{payload['parent']}/environ").read_bytes(),
        "parent's memory": lambda: os.open(f"/proc/{payload['parent']}/mem", os.O_RDONLY),
        "signal the parent": lambda: os.kill(payload["parent"], 0),
        "trace": lambda: _call("ptrace", 0, 0, 0, 0),
        "mount": lambda: _call("mount", b"none", str(folder).encode(), b"tmpfs", 0, None),
        "new namespace": lambda: _call("unshare", 0x10000000),
        "pipe out of a child": lambda: subprocess.run(["/bin/sh", "-c", f"echo x > {outside}/sh.txt"], check=True),
        "open many files": lambda: [open(os.devnull) for _ in range(5000)],  # noqa: SIM115
        "take much memory": lambda: bytearray(8 << 30),
        "write a large file": lambda: (folder / "large").write_bytes(bytes(64 << 20)),
    }
    result = {}
    for name, attempt in tried.items():
        try:
            attempt()
            result[name] = "could"
        except (OSError, MemoryError, subprocess.SubprocessError) as error:
            result[name] = type(error).__name__
    return result


def driver(*, kind: str, payload: dict[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    """What CUDA's driver does when it starts, and what comes close to it."""
    own = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
    tried: dict[str, Callable[[], object]] = {
        "name a thread": lambda: own.write_text("cuda"),
        "local packets": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).close(),
        "local stream": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
        "internet packets": lambda: socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET).close(),
        "a setting of the kernel": lambda: Path("/proc/sys/vm/overcommit_ratio").open("r+").close(),
        "own score": lambda: Path("/proc/self/oom_score_adj").open("r+").close(),
    }
    return _outcomes(tried)


def _outcomes(tried: dict[str, Callable[[], object]]) -> dict[str, Any]:
    result = {}
    for name, attempt in tried.items():
        try:
            attempt()
            result[name] = "could"
        except OSError as error:
            result[name] = type(error).__name__
    return result


def loopback(*, kind: str, payload: dict[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    """What processes that compute together do, and what they might try besides."""

    def speak() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
            other, _ = server.accept()
            with other:
                one.sendall(b"x")
                if other.recv(1) != b"x":
                    raise OSError("nothing came")

    def make(family: int, kind: int, protocol: int = 0) -> Callable[[], None]:
        return lambda: socket.socket(family, kind, protocol).close()

    def shut() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as any_socket:
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0))

    def reach(address: str, port: int) -> Callable[[], None]:
        return lambda: socket.create_connection((address, port), timeout=5).close()

    tried: dict[str, Callable[[], object]] = {
        "speak": speak,
        "list interfaces": make(socket.AF_NETLINK, socket.SOCK_RAW),
        "the machine's loopback": reach("127.0.0.1", payload["port"]),
        "the machine": reach(payload["address"], payload["port"]),
        "another machine": reach("192.0.2.1", 80),
        "change an interface": shut,
        "datagrams": make(socket.AF_INET, socket.SOCK_DGRAM),
        "raw packets": make(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "another protocol": make(socket.AF_INET, socket.SOCK_STREAM, 262),
        "IPv6": make(socket.AF_INET6, socket.SOCK_STREAM),
        "local stream": make(socket.AF_UNIX, socket.SOCK_STREAM),
        "the packet filter": make(socket.AF_NETLINK, socket.SOCK_RAW, 12),
        "trace": lambda: _call("ptrace", 0, 0, 0, 0),
        "new namespace": lambda: _call("unshare", 0x10000000),
    }
    return _outcomes(tried)


def forever(*, kind: str, payload: dict[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    """Starts another process in a session of its own, tells, and never returns."""
    beat = str(folder / "beat")
    code = f"import time\nwhile True:\n    open({beat!r}, 'w').write(str(time.time()))\n    time.sleep(.05)"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (folder / "beat").exists():
        time.sleep(0.01)
    tell("beating")
    while True:
        time.sleep(1)


def fails(*, kind: str, payload: dict[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    if kind == "crash":
        ctypes.string_at(0)
    if kind == "memory":
        raise MemoryError
    raise ValueError("no such thing")


def _call(name: str, *values: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*values) < 0:
        raise OSError(ctypes.get_errno(), name)
