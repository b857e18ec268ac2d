"""The processes that heal one variant together, by `team.py` or `accelerate launch`, or the one that heals alone."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, fx


class Processes:
    """Shares of a batch, an agreed clock, and gradients averaged over processes by Accelerate.

    With ``half`` a GPU takes products in bfloat16; weights and updates stay float32.
    """

    def __init__(self, gm: fx.GraphModule, *, half: bool = False) -> None:
        first: Tensor | None = next(gm.parameters(), None)
        cuda = first is not None and first.is_cuda
        half = half and cuda and torch.cuda.is_bf16_supported()
        # A parameter that only an integer output reads gets no gradient, which is no error.
        parallel = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        known: dict[str, Any] = AcceleratorState._shared_state
        if known and AcceleratorState().num_processes == 1:
            # Accelerate keeps the first device for the life of a process; the next healing may be on another one.
            AcceleratorState._reset_state(reset_partial_state=True)
        self._accelerator = Accelerator(
            cpu=not cuda, mixed_precision="bf16" if half else "no", kwargs_handlers=[parallel]
        )
        self.device = self._accelerator.device

    @property
    def count(self) -> int:
        """How many processes there are."""
        return int(self._accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this one writes the files."""
        return bool(self._accelerator.is_main_process)

    def prepare(self, part: Any) -> Any:
        """A model or optimiser that works with those of the other processes."""
        with warnings.catch_warnings():
            # What is to take its place does not leave buffers alone yet, as torch's warning says itself.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return self._accelerator.prepare(part)

    def share(self, index: Tensor) -> Tensor:
        """This process's part of the sample numbers of a batch."""
        return index[self._accelerator.process_index :: self.count]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``."""
        self._accelerator.backward(loss)

    def alone(self, model: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Backward passes inside do not wait for the other processes, but for the last of a step."""
        return contextlib.nullcontext() if last else self._accelerator.no_sync(model)

    def agree(self, values: Sequence[float]) -> list[float]:
        """``values`` as the main process has them: clocks differ, and all must take the same decisions."""
        if self.count == 1:
            return list(values)
        told: Tensor = broadcast(torch.tensor(values, dtype=torch.float64, device=self.device))
        return [float(value) for value in told]

    def mean(self, value: float) -> float:
        """The mean of ``value`` over the processes."""
        if self.count == 1:
            return value
        return float(self._accelerator.reduce(torch.tensor(value, device=self.device), "mean"))
