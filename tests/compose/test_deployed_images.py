"""What is in the images that were built; nothing has to run."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from deployment import ROOT, has
from running import IMAGES, docker

API_BYTES = 250_000_000
OUTSIDE_THE_PINS = {"aslconvert", "torch", "setuptools"}
"""Ours, what is installed before the pins are there (docs/adr/0001-packaging.md), and what that brings along."""


@pytest.fixture(autouse=True)
def built() -> None:
    if not has(["docker", "image", "inspect", *IMAGES]):
        pytest.skip("NO IMAGES HERE: what is in them is not tested; `make compose-test` builds them")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("image", IMAGES)
def test_every_library_of_an_image_is_pinned(image: str) -> None:
    script = str(ROOT / "docker" / "sbom.sh")
    told = json.loads(subprocess.run(["sh", script, image], capture_output=True, text=True, check=True).stdout)
    libraries = {normal(part["name"]): part["version"] for part in told["components"] if "pkg:pypi/" in part["purl"]}
    lines = (ROOT / "docker" / "constraints.txt").read_text().split()
    pins = {normal(name): version for name, version in (line.split("==") for line in lines)}
    assert {"fastapi", "celery", "opentelemetry-sdk"} <= set(libraries)
    assert {
        name: version for name, version in libraries.items() if pins.get(name) != version
    }.keys() <= OUTSIDE_THE_PINS
    assert ("torch" in libraries) == (image != "aslconvert-api")


def test_the_services_image_is_small() -> None:
    assert int(docker("image", "inspect", "--format", "{{.Size}}", "aslconvert-api")) < API_BYTES
