"""`python -m aslconvert.converter.heal.member FOLDER RANK PROCESSES PARENT`: heals along with who wrote FOLDER.

What it computes is what the first process computes; all that it gives are its share of the gradients. It ends when the
healing ends, or with the process that started it, whose number is PARENT.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.heal.device import placed
from aslconvert.converter.heal.distil import heal
from aslconvert.converter.heal.loop import is_out_of_memory
from aslconvert.converter.heal.team import FAILED, READY, WORK, joined

_SET_PARENT_DEATH_SIGNAL = 1


def main(given: list[str]) -> None:
    """Heal along; the exit status of an exception says that it failed."""
    place, rank, processes, parent = Path(given[0]), *map(int, given[1:])
    # The first process decides when all end; a signal to the whole group is for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before that call, while torch was loaded.
        return
    with telling(place / f"{FAILED}-{rank}"), warnings.catch_warnings():
        # torch warns of its own tree specs when it reads a graph.
        warnings.simplefilter("ignore", FutureWarning)
        # Written by the process that started this one, in a folder of its own.
        work = torch.load(place / WORK, weights_only=False)
    device = torch.device(work["device"] if work["device"] == "cpu" else f"{work['device']}:{rank}")
    if device.type != "cpu":
        torch.cuda.set_device(device)
    (place / f"{READY}-{rank}").touch()
    with (
        joined(place, rank=rank, processes=processes, threads=torch.get_num_threads()),
        # Told while the others do not yet notice that this one fails.
        telling(place / f"{FAILED}-{rank}"),
        placed(work["gm"], device),
    ):
        heal(work["gm"], work["pool"].to(device), **work["settings"])


@contextmanager
def telling(file: Path) -> Iterator[None]:
    """What another try may mend is left in ``file`` for the first process, before it is raised."""
    try:
        yield
    except InfrastructureError as error:
        _leave(file, code=error.code, message=error.message, hint=error.hint)
        raise
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            told = "Memory ran out in a process that healed along."
            _leave(file, code="out_of_memory", message=told, hint="Give a smaller --heal-batch.")
        raise


def _leave(file: Path, **told: str) -> None:
    # It appears whole: the first process may look at any time.
    part = file.with_suffix(".part")
    part.write_text(json.dumps(told), encoding="utf-8")
    part.replace(file)


if __name__ == "__main__":
    main(sys.argv[1:])
