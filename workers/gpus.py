"""The machine's GPUs as its driver tells them, without torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from aslconvert.workers.errors import InfrastructureError, UserError

LEAST_FREE_MIB: Final = 1024
"""Of a GPU that is to take jobs: CUDA alone takes about a third of it."""

_SECONDS: Final = 30.0
_QUERY: Final = ("--query-gpu=index,name,memory.free,memory.total", "--format=csv,noheader,nounits")
_LINE: Final = re.compile(r"\s*(\d+)\s*,\s*(.+?)\s*,\s*(\d+)\s*,\s*(\d+)\s*")


@dataclass(frozen=True)
class Gpu:
    """A GPU by its number, with its free and whole memory in MiB."""

    index: int
    name: str
    free_mib: int
    total_mib: int


def find_gpus() -> list[Gpu]:
    """Every GPU that ``nvidia-smi`` lists; none where it is not installed.

    Raises:
        InfrastructureError: ``gpu_driver``, when it fails.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError("gpu_driver", f"nvidia-smi does not answer: {error}.") from error
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise InfrastructureError("gpu_driver", f"nvidia-smi fails: {told[0]}", hint="Check the driver.")
    found = [_LINE.fullmatch(line) for line in done.stdout.splitlines()]
    return [Gpu(int(m[1]), m[2], int(m[3]), int(m[4])) for m in found if m is not None]


def require_gpu(index: int) -> Gpu:
    """The GPU of this number, with memory left for a job.

    Raises:
        UserError: ``device``, when there is none of it.
        InfrastructureError: ``gpu_memory``, when others have taken its memory; ``gpu_driver``.
    """
    gpus = find_gpus()
    found = next((gpu for gpu in gpus if gpu.index == index), None)
    if found is None:
        there = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in gpus) or "no GPU that nvidia-smi lists"
        raise UserError("device", f"There is no cuda:{index} here.", hint=f"There is {there}.")
    if found.free_mib < LEAST_FREE_MIB:
        raise InfrastructureError(
            "gpu_memory",
            f"cuda:{index} ({found.name}) has {found.free_mib} of {found.total_mib} MiB left.",
            hint=f"End what else uses it: a worker wants {LEAST_FREE_MIB} MiB.",
        )
    return found
