"""The state of one healing: where it stands, the best weights so far, and all of it as a record that can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from aslconvert.converter.errors import InternalError, UserError
from aslconvert.converter.heal.average import Average

START, RAW, AVERAGED = "start", "raw", "averaged"
"""Which weights were best on the held-out samples."""

COUNTERS = (
    "step", "seconds", "first", "smooth", "pieces", "halved", "mark", "stale", "done", "stopped", "start_loss",
    "best_loss", "kept",
)  # fmt: skip


@dataclass
class Run:
    """``pieces`` a step's batch is computed in, ``halved`` once memory ran out; ``mark`` and ``stale`` count judgements
    and those without a gain; ``stopped`` is ``done`` before the end."""

    gm: fx.GraphModule
    optimisers: list[torch.optim.Optimizer]
    average: Average
    setting: dict[str, Any]
    """What must be the same for a stored state to be continued."""
    pieces: int = 1
    halved: bool = False
    step: int = 0
    seconds: float = 0.0
    first: float = float("nan")
    smooth: float = float("nan")
    mark: int = 0
    stale: int = 0
    done: bool = False
    stopped: bool = False
    start_loss: float = float("nan")
    best_loss: float = float("nan")
    kept: str = START
    best: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, loss: float) -> None:
        """Nothing is better than the start yet, whose held-out loss is ``loss``."""
        self.start_loss = self.best_loss = loss
        self._keep({})

    def record(self, loss: float) -> None:
        """Count a step.

        Raises:
            UserError: ``heal_diverged``, when the loss is not finite.
        """
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise UserError(
                "heal_diverged", f"Healing diverged: the loss became {loss} at step {self.step}.",
                hint="Check the data's scale, or convert fewer sites with --keep.",
            )  # fmt: skip
        if self.step == 0:
            self.first = self.smooth = loss
        self.smooth += (loss - self.smooth) * max(0.02, 1 / (self.step + 1))
        self.step += 1

    def offer(self, loss: float, kept: str, weights: Mapping[str, Tensor]) -> bool:
        """Keep the present weights, with ``weights`` in the place of some, if no others had a lower held-out loss."""
        if not loss < self.best_loss:
            return False
        self.best_loss, self.kept = loss, kept
        self._keep(weights)
        return True

    def _keep(self, weights: Mapping[str, Tensor]) -> None:
        state = {**self.gm.state_dict(), **weights}
        self.best = {name: tensor.detach().clone() for name, tensor in state.items()}

    def to_record(self) -> dict[str, Any]:
        """Everything that a later process needs to go on as if it were this one."""
        return {
            "setting": self.setting,
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "model": self.gm.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average.values,
            "best": self.best,
            "random": torch.get_rng_state(),
        }

    def load_record(self, record: Mapping[str, Any], *, name: str) -> None:
        """Go on from ``record``.

        Raises:
            InternalError: ``bad_checkpoint``, when it is of another variant or another setting.
        """
        try:
            if record["setting"] != self.setting:
                raise ValueError("another setting")
            self.gm.load_state_dict(record["model"])
            for optimiser, saved in zip(self.optimisers, record["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.average.load(record["average"])
            self.best = dict(record["best"])
            pieces = self.pieces
            for counter in COUNTERS:
                setattr(self, counter, record["counters"][counter])
            # Whoever resumes with more pieces than before has less memory.
            self.pieces = max(pieces, self.pieces)
            torch.set_rng_state(record["random"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InternalError("bad_checkpoint", f"The checkpoint {name} does not fit its variant.") from error
