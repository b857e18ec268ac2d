"""Doors and job rooms stay light: importing them loads no torch, and no import starts CUDA."""

import subprocess
import sys

import pytest

LIGHT = (
    "aslconvert.service",
    "aslconvert.service.client",
    "aslconvert.service.app",
    "aslconvert.service.dispatching",
    "aslconvert.workers",
    "aslconvert.workers.jobs",
    "aslconvert.workers.storage",
    "aslconvert.workers.vetting",
    "aslconvert.workers.preview",
    "aslconvert.cli.main",
    "aslconvert.converter.errors",
)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_engine_does_not_start_cuda() -> None:
    code = "import sys, aslconvert.kernels, torch; sys.exit(torch.cuda.is_initialized())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
