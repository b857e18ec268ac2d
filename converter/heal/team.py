"""Healing in several processes of this machine: the caller is the first, the others live as long as the healing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed
from accelerate.state import AcceleratorState
from torch import fx

from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.export.atomic import disk_errors
from aslconvert.converter.heal.distil import Healing, heal
from aslconvert.converter.heal.held_out import HeldOut
from aslconvert.converter.heal.loop import BATCH
from aslconvert.converter.heal.pool import Pool

WORK, STORE, READY, FAILED = "work.pt", "store", "ready", "failed"
START_SECONDS = 600.0
"""For the others to load torch and their part of the work, on a machine with other work."""

MEET_SECONDS = 300.0
"""For processes that are ready to find each other, and to wait for the slowest. One that ends is noticed at once."""

HINT = "Its last words are on standard error; memory may have run out. Heal in fewer processes."


def require_devices(processes: int, device: torch.device) -> None:
    """Whether each process has a GPU of its own, where they heal on GPUs.

    Raises:
        UsageError: ``processes``, when there are fewer.
    """
    if device.type == "cuda" and processes > torch.cuda.device_count():
        told = f"Healing in {processes} processes needs as many GPUs, and {torch.cuda.device_count()} can be seen."
        raise UsageError("processes", told, hint="Give fewer --processes, or see CUDA_VISIBLE_DEVICES.")


def heal_together(
    gm: fx.GraphModule,
    pool: Pool,
    *,
    processes: int,
    seed: int,
    batch: int | None = None,
    fixed_batch: int | None = None,
    on_step: Callable[[float, float, float], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    **more: Any,
) -> Healing:
    """As `heal`, whose further settings ``more`` are, with each step's batch shared out to so many processes.

    With one it is `heal`. There are never more than a step has samples: ``on_note`` hears where there are fewer than
    asked for. On GPUs each has one of those that are seen, from the first on. They exchange gradients by gloo over the
    loopback interface, which needs no other network and says at once that one of them is gone.

    Raises:
        InfrastructureError: ``healing_process``, when another process ends early or does not come up; ``no_process``,
            ``disk_full``, ``unwritable``, when it cannot be started; as of `heal`, of whichever process it happens in.
        UsageError: ``processes``, where this process is one of several already.
        KeyboardInterrupt, UserError, InternalError: as of `heal`.
    """
    settings = {**more, "seed": seed, "batch": batch, "fixed_batch": fixed_batch}
    most = _most_processes(pool, batch=batch, fixed=fixed_batch)
    if processes > most and on_note is not None:
        on_note(f"It is healed in {most} of the {processes} processes: a step has no samples for more.")
    processes = min(processes, most)
    if processes == 1:
        return heal(gm, pool, on_step=on_step, on_note=on_note, **settings)
    if torch.distributed.is_initialized():
        told = "This process is one of several that heal together already, and starts none."
        raise UsageError("processes", told, hint="Leave --processes away, or the program that starts them.")
    threads = max(torch.get_num_threads() // processes, 1)
    with ExitStack() as stack:
        with disk_errors(Path(tempfile.gettempdir())):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aslconvert-heal-")))
            _lay_out(place, gm, pool, settings)
        others = []
        for rank in range(1, processes):
            others.append(_started(place, rank=rank, processes=processes, threads=threads))
            stack.callback(_end, others[-1])
        _await(place, others)
        with joined(place, rank=0, processes=processes, threads=threads):
            try:
                return heal(gm, pool, on_step=on_step, on_note=on_note, **settings)
            except RuntimeError as error:
                # What gloo says of a peer that is gone; if all are there it was something else. It is asked while this
                # process still is one of them: without it the others end too.
                if (status := _gone(others)) is None:
                    raise
                raise_failure(place, f"A process that healed along ended early, with status {status}.", cause=error)


def _most_processes(pool: Pool, *, batch: int | None, fixed: int | None) -> int:
    """As many as each get a sample of every step, or the whole batch that a model takes."""
    # How many samples are held out does not depend on the seed.
    train = len(HeldOut(pool, seed=0, multiple=fixed).train)
    return max(min(batch or BATCH, train) if fixed is None else train // fixed, 1)


@contextmanager
def joined(place: Path, *, rank: int, processes: int, threads: int) -> Iterator[None]:
    """This process is the one of number ``rank``, to Accelerate too, and nothing of it is left afterwards.

    Raises:
        InfrastructureError: ``healing_process``, when the processes do not find each other.
    """
    before, had_threads = dict(os.environ), torch.get_num_threads()
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    # Accelerate sets the number of threads where the environment does not.
    os.environ.update({name: str(value) for name, value in {**numbers, "OMP_NUM_THREADS": threads}.items()})
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)
    try:
        try:
            # The store is a file: nothing has to listen at a port that somebody else may have.
            torch.distributed.init_process_group(
                "gloo",
                init_method=f"file://{place / STORE}",
                rank=rank,
                world_size=processes,
                timeout=timedelta(seconds=MEET_SECONDS),
            )
        except RuntimeError as error:
            told = f"The processes that are to heal together do not reach each other: {str(error).splitlines()[0]}"
            hint = "They need TCP on the loopback interface. Heal in one process."
            raise InfrastructureError("healing_process", told, hint=hint) from error
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_num_threads(had_threads)
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


def _lay_out(place: Path, gm: fx.GraphModule, pool: Pool, settings: Mapping[str, Any]) -> None:
    device = next(gm.parameters()).device
    # The tracer that made the graph cannot be made anew without it; the default one can, and keeps every node.
    tracers = gm._tracer_cls, gm.graph._tracer_cls
    gm._tracer_cls = gm.graph._tracer_cls = None
    try:
        work = {"gm": gm, "pool": pool.to(torch.device("cpu")), "device": device.type, "settings": dict(settings)}
        # Not by its path: torch would say less of a full disk than the system does.
        with (place / WORK).open("wb") as file:
            torch.save(work, file)
    finally:
        gm._tracer_cls, gm.graph._tracer_cls = tracers


def _started(place: Path, *, rank: int, processes: int, threads: int) -> subprocess.Popen[bytes]:
    numbers = map(str, (rank, processes, os.getpid()))
    # -P keeps whatever lies in the user's folder off the path of the fresh process.
    command = [sys.executable, "-P", "-m", "aslconvert.converter.heal.member", str(place), *numbers]
    # Its warnings are those of the first process; its errors are Python's.
    environment = {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, "OMP_NUM_THREADS": str(threads)}
    # The first process decides when all end. A signal to the whole group must wait until the others ignore it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    except OSError as error:
        told = f"No process to heal along could be started: {error.strerror}."
        raise InfrastructureError("no_process", told, hint="Heal in fewer processes.") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _await(place: Path, others: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + START_SECONDS
    while not all((place / f"{READY}-{rank}").exists() for rank in range(1, len(others) + 1)):
        if (status := _gone(others, seconds=0.0)) is not None:
            raise_failure(place, f"A process that was to heal along ended before it began, with status {status}.")
        if time.monotonic() > until:
            raise_failure(place, f"A process that was to heal along did not begin within {START_SECONDS:.0f} s.")
        time.sleep(0.02)
    # All have it in memory: should this process be killed, only small files are left behind.
    (place / WORK).unlink()


def _gone(others: list[subprocess.Popen[bytes]], *, seconds: float = 5.0) -> int | None:
    """The status of one that has ended, or ends within so many seconds: its peers may notice before.

    One that was killed before one that ended of itself, as that may be because of the former.
    """
    until = time.monotonic() + seconds
    while True:
        ended = [status for other in others if (status := other.poll()) is not None]
        if ended or time.monotonic() >= until:
            return min(ended, default=None)
        time.sleep(0.02)


def raise_failure(place: Path, told: str, *, cause: Exception | None = None) -> NoReturn:
    """Raise what another process said that it ended by, or that it ended."""
    for file in sorted(place.glob(f"{FAILED}-*[0-9]")):
        raise InfrastructureError(**json.loads(file.read_text(encoding="utf-8"))) from cause
    raise InfrastructureError("healing_process", told, hint=HINT) from cause


def _end(other: subprocess.Popen[bytes]) -> None:
    other.kill()
    other.wait()
