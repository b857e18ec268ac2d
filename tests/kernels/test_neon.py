"""The CPU kernels built for aarch64 and run in an emulator: same results as the reference, and NEON in their loops."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from aslconvert.kernels import reference

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
CODES = {torch.float32: 6, torch.float64: 7, torch.int64: 4, torch.bfloat16: 15}  # torch's ScalarType
COMPILER, OBJDUMP, EMULATOR = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, OBJDUMP, EMULATOR) if shutil.which(tool) is None]
LOOPS = ("loops", "lanes", "tile_sample", "tile_multiply")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the kernels are compiled once more
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {', '.join(MISSING)}; on Debian: apt install g++-aarch64-linux-gnu qemu-user"
    ),
]


def _cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("neon_kernel_cases", FOLDER / "cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["neon_kernel_cases"] = module
    spec.loader.exec_module(module)
    return module


cases = _cases()


def _flags() -> list[str]:
    include = Path(torch.__file__).parent / "include"
    return [
        *("-std=gnu++20", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
        *("-DASL_ISA=base", "-DTORCH_TARGET_VERSION=0x020b000000000000", '-DASL_TORCH_TARGET="2.11"'),
        *('-DASL_COMPILER="cross"', "-isystem", str(include), "-I", str(ROOT / "kernels" / "csrc")),
    ]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every CPU source and the stand-in for torch, compiled for aarch64, by the name of the file."""
    folder = tmp_path_factory.mktemp("aarch64")
    csrc = ROOT / "kernels" / "csrc"
    sources = [*csrc.glob("*.cpp"), *(csrc / "cpu").glob("*.cpp"), *(FOLDER / "neon").glob("*.cpp")]
    sources = [source for source in sources if source.stem != "registration"]

    def build(source: Path) -> tuple[str, Path]:
        target = folder / f"{source.stem}.o"
        command = [COMPILER, *_flags(), "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return source.stem, target

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(build, sources))


@pytest.fixture(scope="module")
def driver(objects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that runs problems from a file."""
    program = tmp_path_factory.mktemp("driver") / "driver"
    subprocess.run([COMPILER, "-static", *map(str, objects.values()), "-o", str(program)], check=True)
    return program


def _numbers(values: Iterable[int]) -> bytes:
    listed = list(values)
    return struct.pack(f"<{len(listed)}q", *listed)


def _listed(values: Sequence[int]) -> bytes:
    return _numbers([len(values), *values])


def _tensor(tensor: Tensor | None) -> bytes:
    """Type, sizes, strides, and the memory from the first element to the last one that is reached."""
    if tensor is None:
        return _numbers([-1])
    span = (
        0 if tensor.numel() == 0 else 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    )
    memory = tensor.as_strided((span,), (1,), tensor.storage_offset())
    raw = memory.view(torch.int16) if tensor.dtype == torch.bfloat16 else memory
    head = _numbers([CODES[tensor.dtype]]) + _listed(tensor.shape) + _listed(tensor.stride())
    return head + _numbers([span]) + raw.numpy().tobytes()


def _results(data: bytes) -> list[Tensor]:
    types = {code: dtype for dtype, code in CODES.items()}
    tensors, at = [], 0

    def take(count: int) -> tuple[int, ...]:
        nonlocal at
        at += 8 * count
        return struct.unpack_from(f"<{count}q", data, at - 8 * count)

    while at < len(data):
        dtype = types[take(1)[0]]
        sizes = take(take(1)[0])
        strides = take(take(1)[0])
        count = torch.Size(sizes).numel()
        flat = (
            torch.frombuffer(bytearray(data), dtype=dtype, count=count, offset=at)
            if count
            else torch.empty(0, dtype=dtype)
        )
        at += count * dtype.itemsize
        tensors.append(flat.as_strided(sizes, strides))
    return tensors


def _run(driver: Path, folder: Path, problems: bytes) -> list[Tensor]:
    (folder / "problems").write_bytes(problems)
    command = [EMULATOR, str(driver), str(folder / "problems"), str(folder / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return _results((folder / "results").read_bytes())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_ops_equal_the_reference_on_aarch64(driver: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    problems, expected = b"", []
    for seed in range(120):
        problem = cases.random_problem(seed, dtype)
        generator = torch.Generator().manual_seed(seed)
        common = b"".join(_tensor(t) for t in (problem.x, problem.shift, problem.source))
        sizes = _listed(problem.stride) + _listed(problem.delta)
        threads = 1 + seed % 3
        y = reference.active_shift(*problem.arguments())
        problems += _numbers([0, threads]) + common + sizes
        expected.append(y)

        grad = torch.randn(y.shape, generator=generator).to(dtype)
        problems += _numbers([1, threads]) + _tensor(grad) + common + sizes
        expected += reference.active_shift_backward(grad, *problem.arguments(), True, True)

        outputs = (3, 16, 21)[seed % 3]
        weight = (torch.randn(outputs, y.shape[1], generator=generator) / y.shape[1] ** 0.5).to(dtype)
        bias = torch.randn(outputs, generator=generator).to(dtype) if seed % 2 else None
        shape = (y.shape[0], outputs, *y.shape[2:])
        layout = reference.memory_format_of(problem.x)
        residual = torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout)
        added = residual if seed % 4 < 2 else None
        relu = seed % 5 == 0
        problems += _numbers([2, threads]) + common + _tensor(weight) + _tensor(reference.pack_pointwise(weight))
        problems += _tensor(bias) + sizes + _numbers([relu]) + _tensor(added)
        x, shift, source, stride, delta = problem.arguments()
        expected += [reference.shift_pointwise(x, shift, source, weight, bias, stride, delta, relu, added)] * 2
    actual = _run(driver, tmp_path, problems)
    assert len(actual) == len(expected)
    for got, want in zip(actual, expected, strict=True):
        cases.check_close(got, want)


@pytest.mark.parametrize("name", LOOPS)
def test_the_loops_are_neon(objects: dict[str, Path], name: str) -> None:
    listing = subprocess.run([OBJDUMP, "-d", str(objects[name])], capture_output=True, text=True, check=True).stdout
    arithmetic = re.findall(r"\t(?:fmla|fmul)\tv\d+\.(?:4s|2d)", listing)
    loads = re.findall(r"\t(?:ldr|ldp|ldur)\tq\d+|\tld1\t", listing)
    assert len(arithmetic) >= 8, listing[:500]
    assert len(loads) >= 8, listing[:500]
    # In `lanes` a mask stands between product and sum.
    assert name == "lanes" or len(re.findall(r"\tfmla\tv\d+\.(?:4s|2d)", listing)) >= 8
