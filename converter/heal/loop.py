"""The parts of a healing: one update, judgements on held-out samples, and what is stored in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, fx

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.heal.average import Average
from aslconvert.converter.heal.checkpoint import read_checkpoint, write_checkpoint
from aslconvert.converter.heal.held_out import HeldOut
from aslconvert.converter.heal.optimiser import base_rates, build_optimisers, set_rates, shift_names
from aslconvert.converter.heal.pointwise import as_products
from aslconvert.converter.heal.pool import Pool
from aslconvert.converter.heal.processes import Processes
from aslconvert.converter.heal.run import AVERAGED, RAW, Run
from aslconvert.converter.heal.schedule import rate_factor

BATCH = 8

FULL_RATE_LOSS = 0.02
"""Starts that are closer to the original than this take smaller steps, in proportion: large ones would undo the fit."""

LEAST_RATE = 0.1

MARKS = 10
FIRST_MARK = 5
"""From the fifth tenth of the run on, the averaged weights are judged on the held-out samples at every tenth."""

PATIENCE = 3
"""Judgements without a gain after which a run stops. The average shows what a falling rate would give, so that this
does not take the noise of a high rate for an end."""

ROUNDING = 1e-5
"""Held-out loss of a start that only rounding separates from the original: nothing is left to heal."""


class Loop:
    """A healing of ``gm``; ``whole`` is False while its state is half of one step and half of the next."""

    def __init__(
        self,
        gm: fx.GraphModule,
        pool: Pool,
        *,
        seed: int,
        batch: int | None,
        pieces: int,
        fixed_batch: int | None,
        max_steps: int | None,
        rate_scale: float | None,
        keep_window: bool,
        half: bool,
        on_note: Callable[[str], None] | None,
    ) -> None:
        self.processes = Processes(gm, half=half)
        self._on_note = on_note
        self.whole = True
        self._pool = pool
        self._seed = seed
        self._fixed = fixed_batch
        self._batch = batch or BATCH if fixed_batch is None else fixed_batch * self.processes.count
        self._held_out = HeldOut(pool, seed=seed, multiple=fixed_batch)
        shifts = shift_names(gm)
        self._windows = [_window(p) for name, p in gm.named_parameters() if name in shifts] if keep_window else []
        optimisers, self._shift_gradients = build_optimisers(gm, shifts)
        self._base_rates = base_rates(optimisers)
        self._rate_scale = rate_scale
        average = Average({name: p for name, p in gm.named_parameters() if p.requires_grad})
        setting: dict[str, Any] = {
            "seed": seed, "batch": self._batch, "samples": len(pool), "max_steps": max_steps, "rate": rate_scale,
        }  # fmt: skip
        if keep_window:
            setting["keep_window"] = True
        if half:
            setting["half"] = True
        if pool.pixels_are_classes:
            setting["pixels_are_classes"] = True
        if pool.task is not None:
            setting["task"] = [pool.task.task, pool.task.weight]
        self.run = Run(gm, optimisers, average, setting, pieces=1 if fixed_batch else pieces)
        self._model = self.processes.prepare(as_products(gm))
        self._optimisers = [self.processes.prepare(optimiser) for optimiser in optimisers]

    def resume(self, checkpoint: Path | None) -> None:
        """Go on from the checkpoint, or judge the start where there is none."""
        run = self.run
        record = None if checkpoint is None else read_checkpoint(checkpoint, on_note=self._on_note)
        if checkpoint is not None and record is not None:
            run.load_record(record, name=checkpoint.name)
        else:
            run.begin(*self.processes.agree([self._held_out.loss(run.gm)]))
            run.done = run.stopped = run.start_loss < ROUNDING
        scale = self._rate_scale
        if scale is None:
            scale = min(max(run.start_loss / FULL_RATE_LOSS, LEAST_RATE), 1.0)
        self._rates = [[rate * scale for rate in group] for group in self._base_rates]

    def is_over(self, progress: float) -> bool:
        """Whether the time is used up or the average, judged at every tenth of the run, has long stopped gaining."""
        run, mark = self.run, int(progress * MARKS)
        self.whole = False
        if mark > run.mark and FIRST_MARK <= mark < MARKS:
            run.mark = mark
            run.stale = 0 if self._offer(AVERAGED, run.average.values) else run.stale + 1
            run.stopped = run.stale >= PATIENCE
        self.whole = True
        return run.stopped or progress >= 1

    def finish(self) -> None:
        """Judge the last weights and their average."""
        self.whole = False
        self._offer(RAW, {})
        self._offer(AVERAGED, self.run.average.values)
        self.run.done = True
        self.whole = True

    def save(self, checkpoint: Path | None) -> None:
        """Write the state, where it is to be written."""
        if checkpoint is not None and self.processes.is_main:
            write_checkpoint(checkpoint, self.run.to_record())

    def _offer(self, kept: str, weights: dict[str, Tensor]) -> bool:
        (loss,) = self.processes.agree([self._held_out.loss(self.run.gm, weights)])
        return self.run.offer(loss, kept, weights)

    def step(self, progress: float) -> None:
        """One update.

        Raises:
            InfrastructureError: ``out_of_memory``.
        """
        run = self.run
        set_rates(run.optimisers, self._rates, rate_factor(progress))
        index = self._held_out.indices(run.step, self._batch, seed=self._seed)
        loss = self._gradients(index)
        self._shift_gradients.normalise()
        self.whole = False
        for optimiser in self._optimisers:
            optimiser.step()
        with torch.no_grad():
            for shift, low, high in self._windows:
                shift.clamp_(low, high)
        run.record(self.processes.mean(loss))
        run.average.update(run.step)
        self.whole = True

    def _gradients(self, index: Tensor) -> float:
        try:
            return self._accumulate(index)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            told = f"Memory ran out on a batch of {self._batch} in {self.run.pieces} pieces."
            if self.run.halved or self._fixed is not None or self.processes.count > 1 or len(index) <= self.run.pieces:
                raise InfrastructureError("out_of_memory", told, hint="Give a smaller --heal-batch.") from error
        # Outside of the handler, whose error holds on to what the batch took.
        self.run.halved = True
        self.run.pieces *= 2
        if self._on_note is not None:
            self._on_note(f"{told} It is now computed in {self.run.pieces}.")
        return self._gradients(index)

    def _accumulate(self, index: Tensor) -> float:
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        device = self.processes.device
        mine = self.processes.share(index)
        parts = mine.tensor_split(min(self.run.pieces, len(mine)))
        total = 0.0
        for number, part in enumerate(parts):
            with self.processes.alone(self._model, last=number + 1 == len(parts)):
                # The mean over processes of these sums is the loss of the whole batch.
                weight = len(part) * self.processes.count / len(index)
                loss = self._pool.loss(self._model, part, device=device, of=index) * weight
                self.processes.backward(loss)
            total += float(loss.detach())
        return total


def _window(shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A parameter [K, D] and the whole pixels [D] between which its rows lie."""
    values = shift.detach()
    return shift, values.min(dim=0).values.floor(), values.max(dim=0).values.ceil()


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that no more memory could be had, of the machine or of a GPU."""
    own = isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)
    return own or should_reduce_batch_size(error)
