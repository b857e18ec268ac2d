"""What a job's process may use at most."""

from __future__ import annotations

import resource
from dataclasses import dataclass

GIB = 1024**3
FOLDER_BYTES, FOLDER_FILES = 64 * GIB, 250_000
"""Of a job's folder: room for the largest data as it came and as it was rebuilt, states and results."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Ceilings of one job, in bytes, seconds and numbers; None leaves one out.

    ``memory`` is what a process may write to, not what it reserves: CUDA's driver and the engine that draws charts
    reserve far more address space than any machine has memory. It holds for each process of the job by itself.
    ``processes`` counts all of the user's, and the kernel does not hold root to it. ``folder_bytes`` and
    ``folder_files`` bound all that lies in the job's folder, its inputs too: by the parent that looks (`footprint.py`),
    not by the kernel.
    """

    memory: int | None = 24 * GIB
    file_size: int | None = 16 * GIB
    cpu_seconds: int | None = None
    open_files: int | None = 1024
    processes: int | None = None
    folder_bytes: int | None = FOLDER_BYTES
    folder_files: int | None = FOLDER_FILES

    def apply(self) -> None:
        """Lower this process's limits, for good: a limit that is below already stays as it is."""
        wanted = {
            resource.RLIMIT_DATA: self.memory,
            resource.RLIMIT_FSIZE: self.file_size,
            resource.RLIMIT_CPU: self.cpu_seconds,
            resource.RLIMIT_NOFILE: self.open_files,
            resource.RLIMIT_NPROC: self.processes,
            resource.RLIMIT_CORE: 0,
        }
        for kind, value in wanted.items():
            if value is not None:
                most = resource.getrlimit(kind)[1]
                value = value if most == resource.RLIM_INFINITY else min(value, most)
                resource.setrlimit(kind, (value, value))
