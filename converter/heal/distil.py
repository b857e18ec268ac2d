"""The healing loop: distil the original into the rewritten model within a time budget, resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from aslconvert.converter.heal.loop import Loop
from aslconvert.converter.heal.pool import Pool

CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True)
class Healing:
    """What one healing run did: steps, seconds, and the smoothed training loss at its start and end.

    ``start_loss`` and ``best_loss`` are those on held-out samples, of the start and of the weights that were kept:
    ``kept`` says which, "start", "raw" or "averaged". ``stopped``: before its time was used up.
    """

    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    start_loss: float
    best_loss: float
    kept: str
    stopped: bool


def heal(
    gm: fx.GraphModule,
    pool: Pool,
    *,
    seconds: float,
    seed: int,
    batch: int | None = None,
    pieces: int = 1,
    fixed_batch: int | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[float, float, float], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    max_steps: int | None = None,
    rate_scale: float | None = None,
    keep_window: bool = False,
    half: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Healing:
    """Train every parameter of ``gm`` in place towards the pool's teacher outputs, for at most ``seconds``.

    Part of the pool is held out. The loss there decides which weights come back: the last ones, their moving average,
    an earlier average, or the start where nothing was better. A run whose average has stopped gaining ends early. The
    better the start, the smaller the steps, unless ``rate_scale`` says how large.

    ``batch`` samples make a step, over all processes; each computes its share in ``pieces`` whose gradients are added.
    A model of ``fixed_batch`` takes that many at once. Where memory runs out the pieces are halved, once. ``gm`` holds
    inference-mode batch norms (or none): only weights, biases and shifts move. With ``checkpoint`` the state is written
    there every few seconds and when the run is interrupted, and an existing one is continued; ``on_step`` gets (seconds
    used, seconds allowed, loss). ``max_steps`` ends the schedule by steps instead: then the result is repeatable, bit
    by bit on the CPU, through any number of interruptions. What the clock decides is not.

    ``keep_window`` holds every shift between the whole pixels that its layer's shifts span at the start: lowered, a
    layer is a kernel as wide as what they span. ``half`` takes products in bfloat16 where ``gm`` is on a GPU. ``clock``
    gives the seconds that are counted: ``time.process_time`` makes healings comparable that share their cores.

    Raises:
        KeyboardInterrupt: passed on after the checkpoint was written.
        UserError: ``heal_diverged``, when the loss stops being finite.
        InfrastructureError: ``out_of_memory``, or ``damaged_checkpoint``.
        InternalError: ``bad_checkpoint``.
    """
    for parameter in gm.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    loop = Loop(
        gm,
        pool,
        seed=seed,
        batch=batch,
        pieces=pieces,
        fixed_batch=fixed_batch,
        max_steps=max_steps,
        rate_scale=rate_scale,
        keep_window=keep_window,
        half=half,
        on_note=on_note,
    )
    loop.resume(checkpoint)
    run = loop.run
    if run.done:
        # Nothing to heal, or nothing more: a resumed run need not find that out again.
        loop.save(checkpoint)
    saved = time.monotonic()
    started = clock() - run.seconds
    try:
        while not run.done:
            used = clock() - started
            over, progress = loop.processes.agree(
                [used >= seconds, used / seconds if max_steps is None else run.step / max_steps]
            )
            if over or loop.is_over(progress):
                loop.finish()
                loop.save(checkpoint)
                break
            loop.step(progress)
            run.seconds = clock() - started
            if on_step is not None:
                on_step(run.seconds, seconds, run.smooth)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                loop.save(checkpoint)
                saved = time.monotonic()
    except KeyboardInterrupt:
        # Half an update is no state to go on from; the checkpoint before it is.
        if loop.whole:
            loop.save(checkpoint)
        raise
    gm.load_state_dict(run.best)
    return Healing(
        steps=run.step,
        seconds=run.seconds,
        first_loss=run.first,
        last_loss=run.smooth,
        start_loss=run.start_loss,
        best_loss=run.best_loss,
        kept=run.kept,
        stopped=run.stopped,
    )
