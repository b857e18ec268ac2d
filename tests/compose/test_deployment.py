"""A real engine, real images: conversions through the proxy, every container killed in turn, backup and restore.

`make compose-test` builds the images, on stand-ins for the bases where no registry is reached, and runs this. Tests are
in order, on one deployment, since starting it is what takes the time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import reaching
from running import IMAGES, Deployment, fetched, running, submit, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
Told = Callable[[str, object], None]
SERVICES = ("worker", "api", "redis", "postgres", "proxy")


@pytest.fixture
def told(record_property: Told) -> Told:
    """Keeps a figure in the results; times are told and never asserted."""
    return record_property


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(tmp_path_factory.mktemp("deployment")) as one:
        yield one


def test_containers_are_what_compose_says(deployment: Deployment) -> None:
    for service in SERVICES:
        found = deployment.container(service)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"] is True, service
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["Memory"] > 0, service
        assert service == "proxy" or found["Config"]["User"] not in ("", "root", "0"), service
        for text in found["Config"]["Env"]:
            assert not any(len(word) == 64 for word in text.replace(":", "=").replace("@", "=").split("=")), service
    assert {service: deployment.health(service) for service in SERVICES} == dict.fromkeys(SERVICES, "healthy")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"files": True, "calls": True, "whole": False}),
        (("seccomp=docker/seccomp-worker.json", "systempaths=unconfined"), {"network": "namespace", "whole": True}),
    ],
)
def test_what_a_container_grants_the_sandbox(
    deployment: Deployment, options: tuple[str, ...], expected: dict[str, object]
) -> None:
    look = "import json; from aslconvert.workers.sandbox.check import granted; print(json.dumps(dict(granted())))"
    given = [word for option in ("no-new-privileges", *options) for word in ("--security-opt", option)]
    command = ["docker", "run", "--rm", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp", *given]
    told = subprocess.run(
        [*command, "aslconvert-api", "python", "-c", look],
        cwd=deployment.compose.folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = json.loads(told)
    # Without a network namespace the calls that open sockets are refused.
    assert found["network"] in ("namespace", "seccomp")
    for name, value in expected.items():
        assert (bool(found[name]) if value is True or value is False else found[name]) == value, found


def test_a_worker_has_no_way_out_and_no_key_of_the_host(deployment: Deployment) -> None:
    look = (
        "import socket\n"
        "for host in ('192.0.2.1', 'api', 'postgres'):\n"
        "    try:\n"
        "        socket.create_connection((host, 5432 if host == 'postgres' else 8765), timeout=3); print(host)\n"
        "    except OSError: pass\n"
    )
    told = deployment.run("exec", "-T", "worker", "python", "-c", look)
    assert told.split() == ["api", "postgres"]
    assert deployment.run("exec", "-T", "worker", "id", "-u").strip() == "10001"


def test_a_job_reaches_nothing_of_what_its_worker_does(deployment: Deployment) -> None:
    lay = "import os, sys; os.mkdir('/tmp/probe'); open('/tmp/probe/reaching.py', 'w').write(sys.argv[1])"
    deployment.run("exec", "-T", "worker", "python", "-c", lay, Path(reaching.__file__).read_text())
    told = json.loads(deployment.run("exec", "-T", "worker", "python", "/tmp/probe/reaching.py"))
    assert told["confined"]["network"] in ("namespace", "seccomp"), told
    assert told["worker"] == dict.fromkeys(reaching.NAMES, True)
    assert told["job"] == dict.fromkeys(reaching.NAMES, False)


def test_the_proxy_passes_no_figures_on(deployment: Deployment) -> None:
    import httpx

    with httpx.Client(base_url=deployment.server) as client:
        assert client.get("/v1/health").json()["status"] == "ok"
        assert client.get("/metrics").status_code == 404
        assert client.get("/v1/models").status_code == 401


def test_a_conversion_through_the_proxy(
    deployment: Deployment, inputs: tuple[Path, Path], tmp_path: Path, told: Told
) -> None:
    with deployment.client() as client:
        begun = time.monotonic()
        ended = client.wait(submit(client, inputs, budget=5).id, timeout=900)
        assert ended.state == "succeeded", ended
        told("seconds", time.monotonic() - begun)
        confined = next(event.data for event in client.events(ended.id) if event.kind == "confined")
        told("confined", json.dumps(confined))
        assert confined["calls"] == "seccomp"
        assert confined["network"] in ("namespace", "seccomp")
        assert fetched(client, ended.id, tmp_path)


def test_the_demo_through_the_proxy(
    deployment: Deployment, demo: tuple[Path, Path], tmp_path: Path, told: Told
) -> None:
    """The trained network of `make demo`, with little healing; its files are proved by the command line, here."""
    more = {"metric": "psnr", "heal_crop": {"size": 64, "multiple": 2}, "artifacts": ["portable", "onnx", "weights"]}
    with deployment.client() as client:
        begun = time.monotonic()
        ended = client.wait(submit(client, demo, budget=20, **more).id, timeout=1500)
        assert (ended.state, ended.missed, ended.attempt) == ("succeeded", None, 1), ended
        told("seconds", time.monotonic() - begun)
        fetched(client, ended.id, tmp_path)
        report = client.report(ended.id)
    chosen = next(variant for variant in report["variants"] if variant["id"] == report["chosen"])
    told("speedup", max(chosen["speedup"].values()))
    command = [sys.executable, "-m", "aslconvert.cli.main", "verify", str(tmp_path), "--json"]
    proved = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["artifacts"]
    assert {one["kind"] for one in proved if one["reloaded"]} >= {"portable", "onnx", "weights"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_container_loses_nothing(
    deployment: Deployment, inputs: tuple[Path, Path], tmp_path: Path, told: Told, service: str
) -> None:
    with deployment.client() as client:
        job = submit(client, inputs, budget=10)
        wait_for(lambda: client.job(job.id).stage is not None)
        begun = time.monotonic()
        deployment.kill(service)
        wait_for(lambda: deployment.health(service) == "healthy")
        told("healthy", time.monotonic() - begun)
        ended = client.wait(job.id, timeout=900)
        assert ended.state == "succeeded", ended
        assert ended.attempt <= 2
        told("ended", time.monotonic() - begun)
        told("attempts", ended.attempt)
        assert fetched(client, ended.id, tmp_path)
        assert sum(event.kind == "succeeded" for event in client.events(job.id)) == 1


def test_a_restart_of_everything_loses_nothing(
    deployment: Deployment, inputs: tuple[Path, Path], tmp_path: Path, told: Told
) -> None:
    with deployment.client() as client:
        job = submit(client, inputs, budget=10)
        wait_for(lambda: client.job(job.id).stage is not None)
        begun = time.monotonic()
        deployment.run("restart")
        deployment.up()
        told("healthy", time.monotonic() - begun)
        ended = client.wait(job.id, timeout=900)
        assert ended.state == "succeeded", ended
        told("ended", time.monotonic() - begun)
        told("attempts", ended.attempt)
        assert fetched(client, ended.id, tmp_path)


def test_backup_wipe_and_restore(deployment: Deployment, tmp_path: Path) -> None:
    assert deployment.admin("fsck", "--deep")["findings"] == []
    with deployment.client() as client:
        before = {job.id: fetched(client, job.id, tmp_path / job.id) for job in client.jobs()}
        counts = len(list(client.models())), len(list(client.datasets()))
    made = deployment.admin("backup", "/data/backup")
    kept = deployment.compose.folder / "backup"
    deployment.run("cp", "api:/data/backup", str(kept))
    deployment.run("down", "--volumes")
    deployment.run("up", "-d", "--no-build", "--wait", "postgres", "redis")
    subprocess.run(["chmod", "-R", "a+rX", str(kept)], check=True)
    restore = ("aslconvert", "admin", "restore", "/backup", "--json")
    told = deployment.run("run", "--rm", "-T", "--no-deps", "-v", f"{kept}:/backup:ro", "api", *restore)
    restored = json.loads(told)
    assert (restored["blobs"], restored["blob_bytes"]) == (made["blobs"], made["blob_bytes"])
    assert restored["keys_work"] is True
    deployment.up()
    deployment.trust()
    with deployment.client() as client:
        assert {job.id: fetched(client, job.id, tmp_path / "again" / job.id) for job in client.jobs()} == before
        assert (len(list(client.models())), len(list(client.datasets()))) == counts
    assert deployment.admin("fsck", "--deep")["findings"] == []


@pytest.mark.parametrize("image", IMAGES)
def test_no_layer_holds_a_secret(deployment: Deployment, tmp_path: Path, image: str) -> None:
    """Searched in the layers' files themselves, along with a word that is in every image of ours."""
    known = "org.opencontainers.image.documentation"
    folder = deployment.compose.folder / "docker" / "secrets"
    secrets = [word for path in folder.iterdir() for word in re.findall(r"[0-9a-f]{64}", path.read_text())]
    (tmp_path / "words").write_text("\n".join([known, *secrets, ""]))
    command = f"docker save {image} | grep --text --only-matching --fixed-strings --file {tmp_path / 'words'}"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.split()
    assert secrets
    assert set(found) == {known}
