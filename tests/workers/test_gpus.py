"""What a worker makes of the driver's answer; the driver itself is where a GPU is."""

import shutil
from pathlib import Path

import pytest

from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.gpus import Gpu, find_gpus, require_gpu


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, *, status: int = 0) -> None:
    """An `nvidia-smi` that answers so, found before any other."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_gpus_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "0, NVIDIA H200, 143000, 143771\n1, NVIDIA A100-SXM4, 512, 40960")
    assert find_gpus() == [Gpu(0, "NVIDIA H200", 143000, 143771), Gpu(1, "NVIDIA A100-SXM4", 512, 40960)]
    assert require_gpu(0).name == "NVIDIA H200"
    with pytest.raises(InfrastructureError, match="512 of 40960 MiB") as full:
        require_gpu(1)
    assert full.value.code == "gpu_memory"
    with pytest.raises(UserError, match="cuda:2") as missing:
        require_gpu(2)
    assert "cuda:1 (NVIDIA A100-SXM4)" in missing.value.hint


def test_a_driver_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "Failed to initialize NVML: Driver/library version mismatch", status=18)
    with pytest.raises(InfrastructureError, match="version mismatch") as broken:
        find_gpus()
    assert broken.value.code == "gpu_driver"


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == []
    with pytest.raises(UserError) as missing:
        require_gpu(0)
    assert missing.value.code == "device"


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs a GPU")
def test_the_gpu_of_this_machine_is_found() -> None:
    assert find_gpus()
