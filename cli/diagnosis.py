"""Looks over the installation and this machine: what is there, what is missing, and how to get it."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from pathlib import Path

import torch

from aslconvert import kernels
from aslconvert.converter.cost.device import DeviceProfile, device_profile
from aslconvert.converter.cost.runtimes import available_runtimes
from aslconvert.workers.sandbox.check import granted

_SHOWN = ("aslconvert", "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "scipy", "accelerate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that is not here, what that costs, and how to get it."""

    what: str
    cost: str
    how: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `aslconvert doctor` prints; ``runtimes`` gives None where one works and else the reason."""

    python: str
    versions: dict[str, str | None]
    native: bool
    kernels: dict[str, object]
    device: DeviceProfile
    runtimes: dict[str, str | None]
    cuda: dict[str, object]
    sandbox: dict[str, object]
    missing: tuple[Missing, ...]


def diagnose() -> Diagnosis:
    """Look over this installation and machine."""
    runtimes = {**available_runtimes()}
    sandbox = dict(granted())
    return Diagnosis(
        python=platform.python_version(),
        versions={name: _version(name) for name in _SHOWN},
        native=kernels.is_native(),
        kernels=dict(kernels.build_info()),
        device=device_profile(),
        runtimes=runtimes,
        cuda=_cuda(),
        sandbox=sandbox,
        missing=(*_missing(runtimes), *_not_granted(sandbox)),
    )


def _missing(runtimes: dict[str, str | None]) -> tuple[Missing, ...]:
    found = []
    if not kernels.is_native():
        how = "Install a C++ compiler and CMake (apt-get install g++ cmake ninja-build)"
        if (Path(__file__).resolve().parent.parent / "Makefile").exists():
            how += ", then run `make clean setup`."
        else:
            how += ", then reinstall aslconvert with pip install --no-build-isolation."
        found.append(
            Missing(
                what="the native kernels",
                cost="Every shift runs on the Python reference, many times slower; no latency measured here counts.",
                how=how,
            )
        )
    if reason := runtimes.get("compile"):
        found.append(Missing(what="torch.compile", cost="It is left out of every comparison.", how=reason))
    if reason := runtimes.get("onnxruntime"):
        found.append(
            Missing(what="ONNX Runtime", cost=f"{reason}; .onnx files cannot be proved.", how="pip install onnxruntime")
        )
    return tuple(found)


def _not_granted(sandbox: dict[str, object]) -> tuple[Missing, ...]:
    if sandbox.get("whole"):
        return ()
    reasons = sandbox.get("missing")
    told = "; ".join(f"{what}: {why}" for what, why in reasons.items()) if isinstance(reasons, dict) else ""
    return (
        Missing(
            what="the whole sandbox of workers",
            cost=f"Jobs of strangers are held by less than docs/adr/0013-sandbox.md says ({told or 'none starts'}).",
            how="Run workers on Linux 5.13 or later, where Landlock, seccomp and namespaces of users are allowed.",
        ),
    )


def _cuda() -> dict[str, object]:
    available = torch.cuda.is_available()
    return {
        "available": available,
        "built_for": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if available
        else [],
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
