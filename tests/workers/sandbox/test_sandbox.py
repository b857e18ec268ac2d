"""What a job in the sandbox can reach, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aslconvert.workers.sandbox.child import DONE, ENGINE_BROKE, JOB_FAILED
from aslconvert.workers.sandbox.launch import BadEvent, Event, Sandbox, Spec, parse_event
from aslconvert.workers.sandbox.limits import Limits

HERE = Path(__file__).parent


def spec(
    folder: Path,
    engine: str,
    *,
    kind: str = "test",
    payload: dict[str, Any] | None = None,
    gpu: str = "",
    loopback: bool = False,
) -> Spec:
    return Spec(
        kind=kind,
        payload=payload or {},
        folder=folder,
        engine=f"probe:{engine}",
        limits=Limits(memory=4 << 30, file_size=32 << 20, open_files=256),
        environment={"PYTHONPATH": str(HERE), **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})},
        loopback=loopback,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    made.mkdir()
    return made


def finish(sandbox: Sandbox) -> tuple[int | None, list[Event]]:
    with sandbox:
        events = list(sandbox.events(seconds=60))
        return sandbox.wait(seconds=60), events


def test_a_job_gets_its_payload_and_nothing_of_the_parents_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASLCONVERT_SECRET", "do not tell")
    status, events = finish(Sandbox(spec(folder, "echo", kind="convert", payload={"a": [1, 2]})))
    assert status == DONE
    assert [event.kind for event in events] == ["confined", "stage", "finished"]
    result = json.loads((folder / "result.json").read_text())
    assert (result["kind"], result["payload"], result["cwd"]) == ("convert", {"a": [1, 2]}, str(folder))
    assert "do not tell" not in json.dumps(result["environment"])
    assert set(result["environment"]) <= {
        "PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ", "HOME", "TMPDIR", "PYTHONSAFEPATH",
        "PYTHONDONTWRITEBYTECODE", "PYTHONPATH",
    }  # fmt: skip
    assert (folder / "own.txt").read_text() == "mine"
    assert not (folder / "tmp").exists()


def test_a_folder_may_be_told_from_where_the_parent_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    status, _ = finish(Sandbox(spec(Path(folder.name), "echo")))
    assert status == DONE
    assert json.loads((folder / "result.json").read_text())["cwd"] == str(folder)


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A port on the loopback interface and a socket in the file system that somebody listens on."""
    path = str(tmp_path / "listening")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        yield tcp.getsockname()[1], path


@pytest.mark.parametrize(("gpu", "loopback"), [("", False), ("0", False), ("0", True)])
def test_a_job_reaches_nothing_but_its_folder(
    folder: Path, tmp_path: Path, listeners: tuple[int, str], gpu: str, loopback: bool
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "there.txt").write_text("keep")
    payload = {"outside": str(outside), "port": listeners[0], "unix": listeners[1], "parent": os.getpid()}
    status, events = finish(Sandbox(spec(folder, "attempts", payload=payload, gpu=gpu, loopback=loopback)))
    held = events[0].data
    if not held["whole"]:
        pytest.skip(f"THE KERNEL GRANTS LESS THAN THE WHOLE SANDBOX HERE: {held['missing']}")
    assert status == DONE
    result = json.loads((folder / "result.json").read_text())
    assert {name: told for name, told in result.items() if told == "could"} == {}
    assert [path.name for path in outside.iterdir()] == ["there.txt"]
    assert (outside / "there.txt").read_text() == "keep"


@pytest.mark.parametrize("gpu", ["", "0"])
def test_a_gpu_opens_only_what_its_driver_needs(folder: Path, gpu: str) -> None:
    status, events = finish(Sandbox(spec(folder, "driver", gpu=gpu)))
    if not events[0].data["whole"]:
        pytest.skip(f"THE KERNEL GRANTS LESS THAN THE WHOLE SANDBOX HERE: {events[0].data['missing']}")
    assert status == DONE
    result = json.loads((folder / "result.json").read_text())
    could = {name for name, told in result.items() if told == "could"}
    assert could == ({"name a thread", "local packets"} if gpu else set())


@pytest.mark.parametrize("gpu", ["", "0"])
def test_tcp_reaches_the_loopback_interface_of_the_job_alone(folder: Path, gpu: str) -> None:
    # On every address of the machine, its loopback among them.
    with socket.create_server(("0.0.0.0", 0)) as server:
        payload = {"port": server.getsockname()[1], "address": own_address()}
        status, events = finish(Sandbox(spec(folder, "loopback", payload=payload, gpu=gpu, loopback=True)))
    if not events[0].data["whole"]:
        pytest.skip(f"THE KERNEL GRANTS LESS THAN THE WHOLE SANDBOX HERE: {events[0].data['missing']}")
    assert status == DONE
    result = json.loads((folder / "result.json").read_text())
    assert {name for name, told in result.items() if told == "could"} == {"speak", "list interfaces"}
    # There is a socket, and nobody at its other end.
    assert result["the machine's loopback"] == "ConnectionRefusedError"


def test_without_a_network_of_its_own_a_job_gets_no_loopback(folder: Path) -> None:
    # Below our own filter, as in containers that forbid namespaces.
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
from test_sandbox import finish, spec
from aslconvert.workers.sandbox.kernel import PR_SET_NO_NEW_PRIVS, prctl
from aslconvert.workers.sandbox.launch import Sandbox
from aslconvert.workers.sandbox.seccomp import refuse_calls
prctl(PR_SET_NO_NEW_PRIVS, 1)
refuse_calls()
status, events = finish(Sandbox(spec(Path({str(folder)!r}), "loopback", loopback=True)))
print(status, events[0].data["network"], *(event.data["code"] for event in events[1:]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(JOB_FAILED), "seccomp", "no_loopback"], done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_parent(folder: Path, how: signal.Signals) -> None:
    script = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
from test_sandbox import spec
from aslconvert.workers.sandbox.launch import Sandbox
sandbox = Sandbox(spec(Path({str(folder)!r}), "forever"))
for event in sandbox.events(seconds=60):
    if event.kind == "beating":
        print(sandbox.process.pid, flush=True)
        time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(how)
    assert wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in state(pid))
    assert stops_beating(folder)


def test_closing_ends_what_a_job_started(folder: Path) -> None:
    with Sandbox(spec(folder, "forever")) as sandbox:
        assert any(event.kind == "beating" for event in sandbox.events(seconds=60))
        assert sandbox.running
    assert not sandbox.running
    assert stops_beating(folder)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("value", ENGINE_BROKE, "engine_error"), ("memory", JOB_FAILED, "out_of_memory"), ("crash", -11, None)],
)
def test_how_a_job_ends_is_told(folder: Path, kind: str, status: int, code: str | None) -> None:
    ended, events = finish(Sandbox(spec(folder, "fails", kind=kind)))
    assert ended == status
    told = [event.data["code"] for event in events if event.kind == "failed"]
    assert told == ([] if code is None else [code])
    assert not (folder / "result.json").exists()


def test_babble_is_no_event(folder: Path) -> None:
    for line in (b"", b"{}", b"[1]", b'{"kind": 1, "data": {}, "at": 0}', b"[" * 100_000, b'{"kind":"x"}', b"\xff"):
        with pytest.raises(BadEvent):
            parse_event(line)
    assert parse_event(b'{"kind": "stage", "data": {"a": 1}, "at": 2}') == Event("stage", {"a": 1}, 2.0)


def test_what_no_database_takes_is_left_out_of_events() -> None:
    line = rb'{"kind": "figures", "data": {"loss": NaN, "x": [1e999, "a\u0000b\ud800"], "y": 1.5}, "at": 2}'
    assert parse_event(line).data == {"loss": None, "x": [None, "ab?"], "y": 1.5}


def test_the_parent_needs_no_torch() -> None:
    names = "aslconvert.workers.sandbox.launch, aslconvert.workers.sandbox.child"
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def own_address() -> str:
    """One of this machine's addresses on a network, else on its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            # Nothing is sent.
            any_socket.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(any_socket.getsockname()[0])


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def stops_beating(folder: Path) -> bool:
    def still() -> bool:
        before = (folder / "beat").read_text()
        time.sleep(0.3)
        return (folder / "beat").read_text() == before

    return wait_for(still)


def wait_for(condition: Any, *, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False
