"""The CPU kernels built for aarch64 and run in an emulator: same results as the reference, and NEON in their loops."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch

COMPILER, OBJDUMP, EMULATOR = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, OBJDUMP, EMULATOR) if shutil.which(tool) is None]
LOOPS = ("loops", "lanes", "tile_sample", "tile_multiply")

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the kernels are compiled once more
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {', '.join(MISSING)}; on Debian: apt install g++-aarch64-linux-gnu qemu-user"
    ),
]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_ops_neon", Path(__file__).with_name("plain_ops.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain_ops = _load()


@pytest.fixture(scope="module")
def objects() -> dict[str, Path]:
    compiled: dict[str, Path] = plain_ops.compile_objects(COMPILER, ["-O3"])
    return compiled


@pytest.fixture(scope="module")
def driver(objects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    program: Path = plain_ops.link(COMPILER, objects, tmp_path_factory.mktemp("driver"), "-static")
    return program


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_ops_equal_the_reference_on_aarch64(driver: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    expected = plain_ops.write_problems(tmp_path / "problems", dtype, range(120))
    actual, _ = plain_ops.run([EMULATOR, str(driver)], tmp_path)
    assert len(actual) == len(expected)
    for got, want in zip(actual, expected, strict=True):
        plain_ops.cases.check_close(got, want)


@pytest.mark.parametrize("name", LOOPS)
def test_the_loops_are_neon(objects: dict[str, Path], name: str) -> None:
    listing = subprocess.run([OBJDUMP, "-d", str(objects[name])], capture_output=True, text=True, check=True).stdout
    arithmetic = re.findall(r"\t(?:fmla|fmul)\tv\d+\.(?:4s|2d)", listing)
    loads = re.findall(r"\t(?:ldr|ldp|ldur)\tq\d+|\tld1\t", listing)
    assert len(arithmetic) >= 8, listing[:500]
    assert len(loads) >= 8, listing[:500]
    # In `lanes` a mask stands between product and sum.
    assert name == "lanes" or len(re.findall(r"\tfmla\tv\d+\.(?:4s|2d)", listing)) >= 8
