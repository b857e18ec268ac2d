"""The commands that talk to a service, against `aslconvert serve` as a process: outputs, exit codes, broken lines."""

import ast
import functools
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from client_engine import FILES
from cutting import cutting
from scripted import free_port
from torch import nn

from aslconvert.cli.main import main
from aslconvert.cli.remote import outcomes
from aslconvert.converter import errors
from aslconvert.service.client import Client, Retry

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "tests" / "service"


@dataclass
class Served:
    """`aslconvert serve` below ``folder``."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = None
    told: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Served":
        command = [
            sys.executable, "-m", "aslconvert.cli.main", "serve", "--folder", self.folder.name, "--port",
            str(self.port), "--engine", "client_engine:run",
        ]  # fmt: skip
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(SERVICE)}
        # A folder told from where it is started, as by default.
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment, cwd=self.folder.parent
        )
        until = time.monotonic() + 90
        while time.monotonic() < until and self.process.poll() is None:
            try:
                httpx.get(f"{self.url}/v1/health")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return self
        raise RuntimeError("The service does not start.")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        _, self.told = self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        service = Served(Path(folder) / "data", free_port()).start()
        yield service
        assert service.stop() == 0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sent")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), folder / "model.pt2")
    np.savez(folder / "data.npz", input=np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32))
    return folder


@pytest.fixture(autouse=True)
def _surroundings(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASLCONVERT_SERVER", served.url)
    monkeypatch.setenv("ASLCONVERT_FOLDER", str(served.folder))
    monkeypatch.delenv("ASLCONVERT_KEY", raising=False)


def told(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """The JSON document of a command that leaves with ``code``."""
    capfd.readouterr()
    assert main([*arguments, "--json"]) == code
    return json.loads(capfd.readouterr().out)


def submitted(capfd: pytest.CaptureFixture[str], files: Path, *more: str) -> str:
    job = told(capfd, "submit", str(files / "model.pt2"), "--data", str(files / "data.npz"), *more)
    assert job["state"] in ("queued", "running", "succeeded")
    identity: str = job["id"]
    return identity


def test_the_first_key_is_its_owners_alone(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    key = served.folder / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().startswith("asl_")
    (first,) = [one for one in told(capfd, "keys", "list")["keys"] if one["name"] == "first"]
    assert set(first["scopes"]) == {"read", "write", "admin", "operator"}
    assert "key" not in first


def test_a_job_is_submitted_waited_for_and_fetched(
    files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = submitted(capfd, files)
    assert told(capfd, "wait", job, "--timeout", "60s")["state"] == "succeeded"
    assert told(capfd, "status", job)["state"] == "succeeded"
    assert job in {one["id"] for one in told(capfd, "status", "--state", "succeeded")["jobs"]}
    out = tmp_path / "out"
    found = told(capfd, "download", job, "--out", str(out))
    assert {Path(path).name for path in found["files"]} == set(FILES)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == FILES
    # Once more: what is there is left as it is.
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    told(capfd, "download", job, "--out", str(out))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times


def test_progress_is_told_on_standard_error_and_the_id_on_standard_output(
    files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    arguments = ["submit", str(files / "model.pt2"), "--data", str(files / "data.npz"), "--wait"]
    assert main(arguments) == 0
    captured = capfd.readouterr()
    assert len(captured.out.split()) == 1
    assert "at work" in captured.err
    assert [f"number {number}" in captured.err for number in range(3)] == [True] * 3


@pytest.mark.parametrize(
    ("metric", "code", "name"),
    [
        ("missed", 5, "speedup_not_reached"),
        ("refuse", 3, "untraceable"),
        ("nothing", 4, "nothing_to_convert"),
        ("unreachable", 5, "does_not_pay"),
        ("data", 2, "data_nan"),
        ("defect", 71, "some_defect"),
    ],
)
def test_a_job_leaves_with_the_code_of_a_run_here(
    metric: str, code: int, name: str, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = submitted(capfd, files, "--metric", metric)
    assert told(capfd, "wait", job, code=code)["error"]["code"] == name
    out = tmp_path / "out"
    if metric == "missed":
        assert told(capfd, "download", job, "--out", str(out))["job"]["missed"]["code"] == name
    else:
        assert told(capfd, "download", job, "--out", str(out), code=code)["error"]["code"] == name
    # The best that was found is written, as by a run here; of what failed there is nothing.
    assert out.exists() == (metric == "missed")


def test_time_to_wait_may_end_before_the_job(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = submitted(capfd, files, "--seed", "400")
    assert told(capfd, "wait", job, "--timeout", "1s", code=75)["error"]["code"] == "wait_timeout"
    assert told(capfd, "cancel", job)["id"] == job
    assert told(capfd, "wait", job, code=130)["error"]["code"] == "job_cancelled"
    assert told(capfd, "cancel", job)["state"] == "cancelled"
    assert told(capfd, "download", job, "--out", "none", code=130)["error"]["code"] == "job_cancelled"


def test_the_same_text_starts_the_same_job_once(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = f"once {time.time_ns()}"
    first = submitted(capfd, files, "--idempotency-key", text)
    assert submitted(capfd, files, "--idempotency-key", text) == first


def test_an_inspection_has_nothing_to_fetch(files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = told(capfd, "submit", str(files / "model.pt2"), "--kind", "inspect", "--wait")
    assert job["forecast"] == {"points": []}
    error = told(capfd, "download", job["id"], "--out", str(tmp_path / "out"), code=2)["error"]
    assert error["code"] == "no_artifacts"
    assert not (tmp_path / "out").exists()


def test_waiting_outlives_cut_lines_and_a_killed_service(
    served: Served, files: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with cutting(served.port) as proxy:
        monkeypatch.setenv("ASLCONVERT_SERVER", proxy.url)
        job = submitted(capfd, files, "--seed", "160")
        command = [sys.executable, "-m", "aslconvert.cli.main", "wait", job, "--json"]
        lines: list[str] = []
        # Far apart, as events come in batches.
        cuts = iter([2, 40, 80])
        at = next(cuts)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            for line in process.stderr:
                lines.append(line.strip())
                if line.startswith("number ") and int(line.split()[1]) >= at:
                    before = proxy.cuts
                    while proxy.cuts == before:  # until it has come back from the cut before
                        proxy.cut()
                        time.sleep(0.02)
                    at = next(cuts, 10_000)
                    if at == 10_000:
                        served.stop(signal.SIGKILL)
                        served.start()
            answer = json.loads(process.stdout.read())
        assert process.returncode == 0
    assert answer["state"] == "succeeded"
    assert proxy.cuts >= 3
    shown = [line for line in lines if line.startswith("number ")]
    with Client(served.url, key_file=served.folder / "key") as client:
        # Every event once and in order; that the job began anew after the kill are events of its own.
        assert shown == [event.data["text"] for event in client.follow(job) if event.kind == "note"]
    assert shown[-1] == "number 159"


def test_keys_are_made_used_and_revoked(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = told(capfd, "keys", "create", "reader", "--scope", "read", "--expires", "1")
    file = tmp_path / "key"
    file.write_text(made["key"])
    told(capfd, "status", "--key-file", str(file))
    monkeypatch.setenv("ASLCONVERT_KEY", made["key"])
    told(capfd, "status")
    assert told(capfd, "keys", "create", "more", code=2)["error"]["kind"] == "user"
    monkeypatch.delenv("ASLCONVERT_KEY")
    assert told(capfd, "keys", "revoke", made["key"], code=2)["error"]["code"] == "key"
    told(capfd, "keys", "revoke", made["id"])
    assert told(capfd, "status", "--key-file", str(file), code=2)["error"]["kind"] == "user"
    assert told(capfd, "keys", "create", "x", "--scope", "root", code=2)["error"]["code"] == "scope"


def test_a_key_can_be_made_beside_the_database(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = told(capfd, "keys", "bootstrap", "--tenant", "other", "--scope", "read")["key"]
    monkeypatch.setenv("ASLCONVERT_KEY", key)
    assert told(capfd, "status")["jobs"] == []
    path = tmp_path / "sub" / "key"
    answer = told(capfd, "keys", "bootstrap", "-o", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().split("_")[1] == answer["id"]
    assert "key" not in answer


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["submit", "none.pt2", "--data", "none.npz"], 3, "not_found"),
        (["submit", "MODEL"], 2, "needs_data"),
        (["submit", "MODEL", "--data", "none.npz"], 2, "data_not_found"),
        (["submit", "MODEL", "--data", "net:make"], 2, "data_is_code"),
        (["submit", "MODEL", "--data", "DATA", "--metric", "own.py:score"], 2, "server_option"),
        (["submit", "MODEL", "--data", "DATA", "--webhook", "https://example.org"], 2, "webhook"),
        (["submit", "MODEL", "--data", "DATA", "--kind", "bench"], 2, "bench_data"),
        (["submit", "MODEL", "--kind", "inspect", "--rounds", "5"], 2, "bench_option"),
        (["submit", "MODEL", "--kind", "train"], 2, "kind"),
        (["convert", "MODEL", "--data", "DATA", "--out", "OUT", "--server", "URL", "--dry-run"], 2, "server_option"),
        (["convert", "MODEL", "--data", "DATA", "--out", "OUT", "--server", "URL", "--resume"], 2, "nothing_to_resume"),
        (["status", "none"], 2, "job_not_found"),
        (["wait", "../x"], 2, "bad_id"),
        (["wait", "x", "--timeout", "soon"], 2, "bad_duration"),
        (["status", "--server", "ftp://x"], 2, "server"),
        (["status", "--key-file", "none"], 2, "key_file"),
    ],
)
def test_what_cannot_work_is_told_with_its_code(
    arguments: list[str],
    code: int,
    name: str,
    served: Served,
    files: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = {
        "MODEL": str(files / "model.pt2"),
        "DATA": str(files / "data.npz"),
        "OUT": str(tmp_path / "out"),
        "URL": served.url,
    }
    assert told(capfd, *(words.get(word, word) for word in arguments), code=code)["error"]["code"] == name
    assert not (tmp_path / "out").exists()


def test_hostile_models_are_refused_as_by_a_run_here(
    files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.pt2").write_bytes(b"\x80\x04K\x01.")
    arguments = ["submit", str(tmp_path / "evil.pt2"), "--data", str(files / "data.npz")]
    assert told(capfd, *arguments, code=3)["error"]["code"] == "kind_code"
    (tmp_path / "evil.npz").write_bytes(b"\x80\x04K\x01.")
    arguments = ["submit", str(files / "model.pt2"), "--data", str(tmp_path / "evil.npz")]
    assert told(capfd, *arguments, code=2)["error"]["code"] == "kind_code"


def test_a_service_that_is_not_there_is_infrastructure(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "Retry", functools.partial(Retry, patience=2.0, first=0.1, most=0.1))
    url = f"http://127.0.0.1:{free_port()}"
    capfd.readouterr()
    assert main(["status", "--server", url, "--json"]) == 70
    captured = capfd.readouterr()
    assert json.loads(captured.out)["error"]["code"] == "unreachable"
    # Once, however often it is tried.
    assert captured.err.count("waiting for the server, for 2 s at most") == 1


def test_a_refused_key_is_told_with_where_it_was_from(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = f"asl_{'0' * 16}_{'0' * 64}"
    (tmp_path / "wrong").write_text(wrong)
    (tmp_path / "odd").write_text("odd")
    found = told(capfd, "status", "--key-file", str(tmp_path / "wrong"), code=2)["error"]
    assert str(tmp_path / "wrong") in found["hint"]
    assert (
        str(tmp_path / "odd") in told(capfd, "status", "--key-file", str(tmp_path / "odd"), code=2)["error"]["message"]
    )
    monkeypatch.setenv("ASLCONVERT_KEY", wrong)
    assert "ASLCONVERT_KEY" in told(capfd, "status", code=2)["error"]["hint"]
    monkeypatch.delenv("ASLCONVERT_KEY")
    monkeypatch.setenv("ASLCONVERT_FOLDER", str(tmp_path))
    assert "No key was shown" in told(capfd, "status", code=2)["error"]["hint"]


def test_an_ended_job_is_started_again_and_deleted(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = submitted(capfd, files, "--metric", "defect")
    told(capfd, "wait", job, code=71)
    again = told(capfd, "retry", job)["id"]
    assert again != job
    told(capfd, "wait", again, code=71)
    assert told(capfd, "delete", job) == {"deleted": job}
    assert told(capfd, "status", job, code=2)["error"]["code"] == "job_not_found"


def test_a_bench_has_options_of_its_own(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("submit", str(files / "model.pt2"), "--kind", "bench", "--runtime", "torch", "--shape", "1x3x8x8")
    job = told(capfd, *arguments, "--rounds", "3", "--seed", "1")
    assert (job["kind"], job["options"]) == (
        "bench",
        {"runtimes": ["torch"], "shape": [1, 3, 8, 8], "rounds": 3, "seed": 1},
    )


def test_a_port_in_use_is_told(served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--folder", str(tmp_path / "data"), "--port", str(served.port)]) == 2
    assert "error [address]" in capfd.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_codes_that_refuse_a_model_are_those_of_the_converter() -> None:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "converter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.setdefault(node.func.id, set()).add(first.value)
    assert found[errors.NothingToConvert.__name__] == outcomes.NOTHING
    assert found[errors.TargetNotReached.__name__] == outcomes.NOT_REACHED
    assert found[errors.ModelRefused.__name__] <= outcomes.REFUSED


def test_commands_do_not_load_torch() -> None:
    code = """
import sys
from aslconvert.cli.main import main
from aslconvert.cli.remote import convert, fetching, outcomes, packing, views, watching
code = main(["status", "--json"])
sys.exit("torch" if "torch" in sys.modules else code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_came_of_a_job_is_told_in_a_line(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = submitted(capfd, files)
    capfd.readouterr()
    assert main(["wait", job]) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "aslconvert download" in line]
    assert line.endswith(f": aslconvert download {job} --out DIR")
