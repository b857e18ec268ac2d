"""Vets files in a process of its own with little memory: `python judge.py FOLDER`, one line of JSON a file.

Each line is [name, code, entry, message, seconds of the processor, peak of the process in bytes].
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

ADDRESS_SPACE = 1_000_000_000


def peak() -> int:
    """Bytes that this program had in memory at most; what getrusage tells includes the process that started it."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    # Loaded within the limit, as the service's process would be.
    from aslconvert.workers.intake.refusal import Refused
    from aslconvert.workers.intake.vet import vet

    for file in sorted(folder.glob("*.bin")):
        start = time.process_time()
        kind = "data" if file.name.startswith("data-") else "model"
        code, entry, message = "rebuilt", "", ""
        try:
            vet(file, file.with_suffix(".out"), kind=kind)
        except Refused as refused:
            code, entry, message = refused.code, refused.entry, str(refused)
        except BaseException as error:  # noqa: BLE001  (whatever else comes out is the finding)
            code, message = f"raised {type(error).__name__}", str(error)[:500]
        sys.stdout.write(json.dumps([file.stem, code, entry, message, time.process_time() - start, peak()]) + "\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps(["torch" in sys.modules]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
