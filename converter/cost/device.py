"""Describes the machine that latency was measured on, because a latency without it means nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# The instruction sets that decide which convolution and GEMM kernels the libraries pick.
_TELLING_FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "sve", "sve2", "bf16", "i8mm",
)  # fmt: skip
_VERSIONED = ("torch", "onnxruntime", "openvino", "onnx", "numpy")


@dataclass(frozen=True)
class DeviceProfile:
    """What a latency holds for: processor, instruction sets, cores, threads and library versions.

    ``cores`` is the number of logical processors this process may use, ``threads`` the number it was measured with.
    ``torch_isa`` is the instruction set that torch's own kernels dispatch to.
    """

    cpu: str
    isa: tuple[str, ...]
    torch_isa: str
    cores: int
    threads: int
    memory_gib: float
    system: str
    versions: dict[str, str]
    kernels_native: bool
    device: str = "cpu"


def device_profile(*, threads: int | None = None) -> DeviceProfile:
    """Profile of this machine; ``threads`` defaults to what torch uses now."""
    import torch

    model, flags = _cpu_model_and_flags()
    return DeviceProfile(
        cpu=model,
        isa=tuple(flag for flag in _TELLING_FLAGS if flag in flags),
        torch_isa=torch.backends.cpu.get_cpu_capability(),
        cores=usable_cores(),
        threads=torch.get_num_threads() if threads is None else threads,
        memory_gib=round(_memory_bytes() / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        versions={name: version for name in _VERSIONED if (version := _version(name))},
        kernels_native=_kernels_native(),
    )


def usable_cores() -> int:
    """Logical processors this process may run on (its affinity mask, not the machine's total)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model_and_flags() -> tuple[str, frozenset[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = fields.get("flags") or fields.get("features") or ""
    return fields.get("model name") or platform.processor() or platform.machine(), frozenset(flags.split())


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _kernels_native() -> bool:
    from aslconvert.kernels import is_native

    return bool(is_native())
