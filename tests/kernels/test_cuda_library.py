"""The one library with CPU and CUDA code needs no CUDA library to load, and says what it was built for."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import aslconvert.kernels
from aslconvert.kernels import ops

INFO = aslconvert.kernels.build_info()
pytestmark = pytest.mark.skipif(INFO.get("cuda", "none") == "none", reason="the library was built without CUDA")


def _tool(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    return subprocess.run([*command, str(ops.LIBRARY_PATH)], capture_output=True, text=True, check=True).stdout


def test_no_cuda_library_is_needed() -> None:
    needed = re.findall(r"NEEDED.*\[(.*)\]", _tool("readelf", "--dynamic", "--wide"))
    assert "libc.so.6" in needed
    assert not [name for name in needed if re.search("cuda|cudart|nvrtc|cublas", name)]


def test_every_missing_symbol_is_torch_s_or_the_system_s() -> None:
    lines = _tool("nm", "--dynamic", "--undefined-only").splitlines()
    names = {line.split()[-1].split("@")[0] for line in lines}
    assert "aoti_torch_create_device_guard" in names
    assert not [name for name in names if re.match("_*cu[A-Z]|_*cuda", name)]


def test_cuda_kernels_are_registered_without_a_driver() -> None:
    for op in ("active_shift", "active_shift_backward", "shift_pointwise"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"asl::{op}", "CUDA")


def test_the_build_names_its_toolkit_and_architectures() -> None:
    assert re.fullmatch(r"\d+\.\d+", INFO["cuda"])
    assert INFO["cuda_architectures"]


def _device_code(library: bytes) -> set[str]:
    """What nvcc packed into the library, read from the headers of its containers: sm_80 is code, ptx_80 is PTX."""
    found = set()
    for container in re.finditer(struct.pack("<I", 0xBA55ED50), library):
        at = container.start()
        header, size = struct.unpack_from("<HQ", library, at + 6)
        at += header
        end = at + size
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", library, at)
            (architecture,) = struct.unpack_from("<I", library, at + 28)
            found.add(f"{'ptx' if kind == 1 else 'sm'}_{architecture}")
            at += header + size
    return found


def test_the_library_holds_code_for_each_architecture_that_it_names() -> None:
    named = set()
    for name in INFO["cuda_architectures"].split(","):
        if name == "native":
            pytest.skip("built for this machine's own GPU")
        number = name.split("-")[0]
        kinds = {"real": ["sm"], "virtual": ["ptx"]}.get(name.removeprefix(number).lstrip("-"), ["sm", "ptx"])
        named |= {f"{kind}_{number}" for kind in kinds}
    assert _device_code(ops.LIBRARY_PATH.read_bytes()) == named


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("nvcc") is None, reason="needs CMake and nvcc")
def test_a_wheel_is_for_every_supported_gpu_and_for_those_to_come(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = ["cmake", "-S", str(root), "-B", str(tmp_path), f"-DPython_EXECUTABLE={sys.executable}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Before 12.8 nvcc does not know the last of them.
    assert re.search(r"CUDA kernels by nvcc \S+ for 80-real;86-real;89-real;90(-real;100)?\n", said)
