"""`aslconvert doctor` says what is there, and loudly what is not."""

import json
import os
import subprocess
import sys

import pytest
import torch

from aslconvert import kernels
from aslconvert.cli.main import main


def test_json_names_versions_runtimes_and_kernels(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["versions"]["torch"] == torch.__version__
    assert answer["native"] is kernels.is_native()
    assert {"torch", "compile", "onnxruntime", "openvino"} <= set(answer["runtimes"])
    assert answer["device"]["cores"] >= 1
    assert bool(answer["missing"]) >= (not kernels.is_native())


def test_the_page_is_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    page = capfd.readouterr().out
    assert "kernels" in page
    assert torch.__version__ in page


def test_missing_kernels_are_loud_and_mendable() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aslconvert.cli.main", "doctor"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ASLCONVERT_NO_NATIVE": "1"},
        timeout=120,
    )
    assert "native: NO" in done.stdout
    assert "MISSING: the native kernels" in done.stdout
    assert "g++" in done.stdout
