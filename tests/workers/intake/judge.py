"""Vets files in a process of its own with little memory: `python judge.py FOLDER`, one line of JSON a file.

Each line is [name, code, entry, message, seconds, peak of the process in bytes].
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

ADDRESS_SPACE = 1_000_000_000


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    # Loaded within the limit, as the service's process would be.
    from aslconvert.workers.intake.refusal import Refused
    from aslconvert.workers.intake.vet import vet

    for file in sorted(folder.glob("*.bin")):
        start = time.monotonic()
        kind = "data" if file.name.startswith("data-") else "model"
        code, entry, message = "rebuilt", "", ""
        try:
            vet(file, file.with_suffix(".out"), kind=kind)
        except Refused as refused:
            code, entry, message = refused.code, refused.entry, str(refused)
        except BaseException as error:  # noqa: BLE001  (whatever else comes out is the finding)
            code, message = f"raised {type(error).__name__}", str(error)[:500]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write(json.dumps([file.stem, code, entry, message, time.monotonic() - start, peak]) + "\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps(["torch" in sys.modules]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
