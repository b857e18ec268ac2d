"""Fuzzes intake for as long as one likes: `python tests/workers/intake/fuzz.py --seconds 600`.

Files are made in one process and judged in another with little memory, so that a crash or a hang is seen; the file
that made it is kept.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import IO

PATIENCE = 60.0  # seconds for one file
ADDRESS_SPACE = 1_500_000_000  # bytes; the makers of the files are in the process too
MOST = 10  # findings after which to stop


def work(tiny: Path, seed: int, folder: Path) -> None:
    """Makes and judges files until it is ended; tells each one's number before and its code after."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    import mutations

    more = [path.read_bytes() for path in sorted(tiny.parent.glob("*.pt2")) if path != tiny]
    fine = mutations.bases(tiny.read_bytes(), *more)
    number = 0
    while True:
        kind, content = mutations.mutant(fine, Random(f"{seed}/{number}"))
        (folder / "last").write_bytes(content)
        say(json.dumps([number, ""]))
        try:
            code = mutations.outcome(kind, content, folder)
        except BaseException as error:  # noqa: BLE001  (any other exception is what is sought)
            code = f"raised {type(error).__name__}: {error}"
        say(json.dumps([number, code]))
        number += 1


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def watch(pipe: IO[str], end: float, files: int) -> tuple[collections.Counter[str], str]:
    """Counts codes until time or files are over or something is found, which is the second."""
    counts: collections.Counter[str] = collections.Counter()
    while time.monotonic() < end and counts.total() < files:
        if not select.select([pipe], [], [], PATIENCE)[0]:
            return counts, f"hung: no answer within {PATIENCE} s"
        line = pipe.readline()
        if not line:
            return counts, "crashed"
        _, code = json.loads(line)
        if code.startswith("raised"):
            return counts, code
        if code:
            counts[code] += 1
    return counts, ""


def main() -> int:
    """Fuzzes until the time is over; 1 where anything was found, with the files to repeat it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--files", type=int, default=sys.maxsize, help="stop after so many as well")
    parser.add_argument("--seed", type=int, help="fresh without it")
    parser.add_argument("--base", type=Path, help="an export to start from; the others in its folder join in")
    parser.add_argument("--findings", type=Path, default=Path("out/fuzz-intake"), help="where files are kept")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.work is not None:
            work(options.base, options.work, folder)
        base = options.base or folder / "tiny.pt2"
        if options.base is None:
            make_base(base)
        total: collections.Counter[str] = collections.Counter()
        findings, end = 0, time.monotonic() + options.seconds
        while time.monotonic() < end and findings < MOST and total.total() < options.files:
            # A worker's folder is this process's to name, so that the file is there after a crash.
            command = [sys.executable, __file__, "--work", str(seed), "--base", str(base)]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": temporary}
            ) as process:
                counts, finding = (
                    watch(process.stdout, end, options.files - total.total()) if process.stdout else (total, "no pipe")
                )
                total += counts
                if finding:
                    findings += 1
                    options.findings.mkdir(parents=True, exist_ok=True)
                    for last in folder.glob("*/last"):
                        last.replace(options.findings / f"{seed}")
                    say(f"{finding}\n  kept: {options.findings / str(seed)}")
                process.kill()
            seed += 1
    say(", ".join(f"{code} {count}" for code, count in sorted(total.items())))
    say(f"{total.total()} files, {len(total)} outcomes, {findings} findings")
    return 1 if findings else 0


def make_base(path: Path) -> None:
    """The small export, and one with a block without gradients and symbolic sizes."""
    import torch
    from conftest import Tiny

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Tiny().eval(), (torch.rand(2, 3, 5, 5),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
