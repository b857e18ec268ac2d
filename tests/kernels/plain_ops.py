"""The CPU kernels without torch: compiled with a stand-in for its C interface, run on problems from a file.

For places where no torch runs: another processor's emulator, and valgrind.
"""

from __future__ import annotations

import hashlib
import importlib.util
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from aslconvert.kernels import reference

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
BUILD = ROOT / "build" / "plain"
HEADERS = {".h", ".inc"}
CODES = {torch.float32: 6, torch.float64: 7, torch.int64: 4, torch.bfloat16: 15}  # torch's ScalarType


def _cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_kernel_cases", FOLDER / "cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plain_kernel_cases"] = module
    spec.loader.exec_module(module)
    return module


cases = _cases()


def compile_objects(compiler: str, flags: Sequence[str]) -> dict[str, Path]:
    """Every CPU source (its loops as the `base` copy) and the stand-in for torch, by the name of the file.

    Kept in `build/plain` by all that they depend on: a second run compiles only what was changed.

    Raises:
        RuntimeError: something does not compile; with the compiler's words.
    """
    csrc = ROOT / "kernels" / "csrc"
    sources = [*csrc.glob("*.cpp"), *(csrc / "cpu").glob("*.cpp"), *(FOLDER / "plain").glob("*.cpp")]
    common = [
        *("-std=gnu++20", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
        *("-DASL_ISA=base", "-DTORCH_TARGET_VERSION=0x020b000000000000", '-DASL_TORCH_TARGET="2.11"'),
        *('-DASL_COMPILER="any"', "-isystem", str(Path(torch.__file__).parent / "include")),
    ]

    headers = [path for folder in (csrc, FOLDER / "plain") for path in folder.rglob("*") if path.suffix in HEADERS]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    basis = repr((version, common, flags, torch.__version__, *(path.read_bytes() for path in sorted(headers))))
    BUILD.mkdir(parents=True, exist_ok=True)

    def build(source: Path) -> tuple[str, Path]:
        digest = hashlib.sha256(basis.encode() + source.read_bytes()).hexdigest()[:16]
        target = BUILD / f"{source.stem}-{digest}.o"
        if target.exists():
            return source.stem, target
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            made = Path(folder) / "made.o"
            command = [compiler, *common, *flags, "-c", str(source), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{source.name} does not compile:\n{done.stderr}")
            # In one step: tests that run at once never see half a file.
            made.rename(target)
        return source.stem, target

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(build, [source for source in sources if source.stem != "registration"]))


def link(compiler: str, objects: Mapping[str, Path], folder: Path, *flags: str) -> Path:
    """The program that runs problems from a file."""
    program = folder / "driver"
    subprocess.run([compiler, *flags, *map(str, objects.values()), "-o", str(program)], check=True)
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


def write_problems(path: Path, dtype: torch.dtype, seeds: Iterable[int]) -> list[Tensor]:
    """Writes random calls of every op with one to three threads; what they must give, in order."""
    problems = b""
    expected: list[Tensor] = []
    for seed in seeds:
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
    path.write_bytes(problems)
    return expected


def run(command: Sequence[str], folder: Path, *, timeout: float = 600) -> tuple[list[Tensor], str]:
    """What the program gives for `folder / "problems"`, and what it and its emulator print.

    Raises:
        RuntimeError: it failed.
    """
    arguments = [*command, str(folder / "problems"), str(folder / "results")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return _results((folder / "results").read_bytes()), done.stderr
