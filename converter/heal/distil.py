"""The healing loop: distil the original into the rewritten model within a time budget, resumable at any step."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, fx

from aslconvert.converter.data.metrics import flatten
from aslconvert.converter.errors import InternalError, UserError
from aslconvert.converter.export.atomic import write_file
from aslconvert.converter.heal.loss import distillation_loss
from aslconvert.converter.heal.optimiser import base_rates, build_optimisers, set_rates, shift_names
from aslconvert.converter.heal.pointwise import as_products
from aslconvert.converter.heal.pool import Pool
from aslconvert.converter.heal.schedule import rate_factor

BATCH = 8
CHECKPOINT_SECONDS = 10.0


FULL_RATE_LOSS = 0.02
"""Starts that are closer to the original than this take smaller steps, in proportion: large ones would undo the fit."""

LEAST_RATE = 0.1
PROBE_SAMPLES = 64


@dataclass(frozen=True)
class Healing:
    """What one healing run did: steps, seconds, and the smoothed loss at its start and end."""

    steps: int
    seconds: float
    first_loss: float
    last_loss: float


def heal(
    gm: fx.GraphModule,
    pool: Pool,
    *,
    seconds: float,
    seed: int,
    batch: int | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[float, float, float], None] | None = None,
    max_steps: int | None = None,
) -> Healing:
    """Train every parameter of ``gm`` in place towards the pool's teacher outputs, for at most ``seconds``.

    Healing never returns worse than it was given: the loss on some fixed samples decides, and where it did not fall the
    weights of the start come back. The better the start, the smaller the steps.

    ``gm`` holds inference-mode batch norms (or none): only weights, biases and shifts move. With ``checkpoint`` the
    state is written there every few seconds and when the run is interrupted, and an existing one is continued;
    ``on_step`` gets (seconds used, seconds allowed, loss). ``max_steps`` ends the schedule by steps instead.

    Raises:
        KeyboardInterrupt: passed on after the checkpoint was written.
        UserError: ``heal_diverged``, when the loss stops being finite.
    """
    batch = batch or BATCH
    for parameter in gm.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    shifts = shift_names(gm)
    accelerator = Accelerator(cpu=not torch.cuda.is_available() or not _on_cuda(gm))
    optimisers, shift_gradients = build_optimisers(gm, shifts)
    start = {name: tensor.detach().clone() for name, tensor in gm.state_dict().items()}
    start_loss = probe_loss(gm, pool, batch=batch)
    scale = min(max(start_loss / FULL_RATE_LOSS, LEAST_RATE), 1.0)
    rates = [[rate * scale for rate in group] for group in base_rates(optimisers)]
    model = accelerator.prepare(as_products(gm))
    prepared = [accelerator.prepare(optimiser) for optimiser in optimisers]
    state = _State.load(checkpoint, gm, optimisers)
    started = time.monotonic() - state.seconds
    saved = time.monotonic()
    try:
        while (used := time.monotonic() - started) < seconds and (max_steps is None or state.step < max_steps):
            progress = used / seconds if max_steps is None else state.step / max_steps
            set_rates(optimisers, rates, rate_factor(progress))
            index = pool.indices(state.step, batch, seed=seed)
            mine = index[accelerator.process_index :: accelerator.num_processes]
            inputs = [x[mine].to(accelerator.device) for x in pool.inputs]
            target = [y[mine].to(accelerator.device) for y in pool.outputs]
            student = [o for o in flatten(model(*inputs)) if o.is_floating_point()]
            loss = distillation_loss(student, target)
            for optimiser in prepared:
                optimiser.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            shift_gradients.normalise()
            for optimiser in prepared:
                optimiser.step()
            state.record(float(loss.detach()))
            state.seconds = time.monotonic() - started
            if on_step is not None:
                on_step(state.seconds, seconds, state.smooth)
            if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                state.save(checkpoint, gm, optimisers)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if checkpoint is not None:
            state.save(checkpoint, gm, optimisers)
        raise
    if checkpoint is not None:
        state.save(checkpoint, gm, optimisers)
    if not probe_loss(gm, pool, batch=batch) < start_loss:
        gm.load_state_dict(start)
    return Healing(steps=state.step, seconds=state.seconds, first_loss=state.first, last_loss=state.smooth)


def probe_loss(gm: fx.GraphModule, pool: Pool, *, batch: int) -> float:
    """The distillation loss over the pool's first samples."""
    losses = []
    device = next((p.device for p in gm.parameters()), torch.device("cpu"))
    with torch.no_grad():
        for first in range(0, min(PROBE_SAMPLES, len(pool)) // batch * batch or batch, batch):
            outputs = flatten(gm(*(x[first : first + batch].to(device) for x in pool.inputs)))
            target = [y[first : first + batch].to(device) for y in pool.outputs]
            student = [o for o in outputs if o.is_floating_point()]
            losses.append(float(distillation_loss(student, target)))
    return sum(losses) / len(losses)


class _State:
    """Counters of a run, and its file."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.first = float("nan")
        self.smooth = float("nan")

    def record(self, loss: float) -> None:
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise UserError(
                "heal_diverged", f"Healing diverged: the loss became {loss} at step {self.step}.",
                hint="Check the data's scale, or convert fewer sites with --keep.",
            )  # fmt: skip
        if self.step == 0:
            self.first = self.smooth = loss
        self.smooth += (loss - self.smooth) * max(0.02, 1 / (self.step + 1))
        self.step += 1

    def save(self, path: Path, gm: fx.GraphModule, optimisers: list[torch.optim.Optimizer]) -> None:
        record: dict[str, Any] = {
            "counters": {key: getattr(self, key) for key in ("step", "seconds", "first", "smooth")},
            "model": gm.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        }
        buffer = io.BytesIO()
        torch.save(record, buffer)
        write_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path | None, gm: fx.GraphModule, optimisers: list[torch.optim.Optimizer]) -> _State:
        state = cls()
        if path is None or not path.exists():
            return state
        record = torch.load(path, weights_only=True)
        try:
            gm.load_state_dict(record["model"])
            for optimiser, saved in zip(optimisers, record["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
        except (KeyError, RuntimeError, ValueError) as error:
            raise InternalError("bad_checkpoint", f"The checkpoint {path.name} does not fit its variant.") from error
        for key, value in record["counters"].items():
            setattr(state, key, value)
        return state


def _on_cuda(gm: fx.GraphModule) -> bool:
    first: Tensor | None = next(gm.parameters(), None)
    return first is not None and first.is_cuda
