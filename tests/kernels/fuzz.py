"""Fuzzes the ops for as long as one likes: `python tests/kernels/fuzz.py --seconds 600`, or `make fuzz`.

Calls run in a worker process, so that a crash or a hang is seen and the call that made it is printed.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import fuzz_inputs
import torch

from aslconvert.kernels import build_info, reference

WORKER = Path(__file__).with_name("fuzz_worker.py")
PATIENCE = 60.0  # seconds for one call; slow machines and sanitizers included
START = 180.0  # seconds for a worker to import torch


@functools.cache
def schemas() -> dict[str, list[str]]:
    """Every op of the namespace with the names of its arguments."""
    found = [schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("asl::")]
    return {schema.name.removeprefix("asl::"): [argument.name for argument in schema.arguments] for schema in found}


def dtypes() -> list[str]:
    """The types of image that the ops promise to take."""
    return [str(dtype).removeprefix("torch.") for dtype in reference._DTYPES]


class Worker:
    """A process that judges calls; started when needed, replaced when it died or hung."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long-lived as the worker)

    def ask(self, call: dict[str, Any]) -> tuple[str, str]:
        """The verdict ("value", "error", "skipped", "wrong", "crashed" or "hung") and its explanation."""
        if self.process is None or self.process.poll() is not None:
            verdict = self._start()
            if verdict[0] != "ready":
                raise RuntimeError(f"the fuzz worker does not start: {verdict}")
        return self._exchange(json.dumps(call) + "\n", PATIENCE)

    def _start(self) -> tuple[str, str]:
        self.log.seek(0)
        self.log.truncate()
        # Threads that wait must not spin: there may be more of them than cores.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        pipe = subprocess.PIPE
        command = [sys.executable, str(WORKER)]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=environment)
        return self._exchange("", START)

    def _exchange(self, question: str, patience: float) -> tuple[str, str]:
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the fuzz worker has no pipes")
        try:
            process.stdin.write(question)
            process.stdin.flush()
        except BrokenPipeError:
            return self._died(process)
        if not select.select([process.stdout], [], [], patience)[0]:
            self.close()
            return "hung", f"no answer within {patience} s"
        line = process.stdout.readline()
        if not line:
            return self._died(process)
        verdict, text = json.loads(line)
        return verdict, text

    def _died(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        code = process.wait()
        self.log.seek(0)
        tail = self.log.read()[-6000:]
        self.close()
        return "crashed", f"exit code {code}\n{tail}"

    def close(self, *, for_good: bool = False) -> None:
        """Ends the process; another is started at the next question unless it is `for_good`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process = None
        if for_good:
            self.log.close()


def say(text: str) -> None:
    """Prints a line at once, so that it is there when the next call hangs."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Fuzzes until the time is over; 1 where anything was found, with the calls to repeat it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--calls", type=int, help="stop after so many as well")
    parser.add_argument("--seed", type=int, help="fresh without it")
    parser.add_argument("--most", type=int, default=10, help="findings after which to stop")
    parser.add_argument("--messages", action="store_true", help="print each kind of error once")
    parser.add_argument("--replay", help="one call as JSON, as it was printed")
    options = parser.parse_args()
    worker = Worker()
    if options.replay:
        say(": ".join(worker.ask(json.loads(options.replay))))
        worker.close(for_good=True)
        return 0
    seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
    draw, counts, findings = Random(seed), collections.Counter[str](), 0
    messages: dict[str, str] = {}
    names, types = schemas(), dtypes()
    say(f"{build_info()}, seed {seed}, {', '.join(sorted(names))}")
    end = time.monotonic() + options.seconds
    while time.monotonic() < end and findings < options.most and counts.total() != options.calls:
        call = fuzz_inputs.random_call(draw, names, types, odd=draw.random() < 0.75)
        verdict, text = worker.ask(call)
        counts[verdict] += 1
        if verdict == "error":
            messages.setdefault("".join(c for c in text.splitlines()[0] if not c.isdigit() and c not in "-[], "), text)
        if verdict in ("wrong", "crashed", "hung"):
            findings += 1
            say(f"{verdict}: {text}\n  repeat: --replay '{json.dumps(call)}'")
    worker.close(for_good=True)
    if options.messages:
        say("\n".join(text.splitlines()[0] for text in sorted(messages.values())))
    say(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
