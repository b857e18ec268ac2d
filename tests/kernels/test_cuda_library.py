"""The one library with CPU and CUDA code needs no CUDA library to load, and says what it was built for."""

from __future__ import annotations

import re
import shutil
import subprocess

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
