"""The exponential moving average of the weights, which shows what a falling rate would give."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MOST_DECAY = 0.998
WARM = 10
"""The decay at step t is at most (1 + t) / (WARM + t): the average forgets the start as soon as it can."""


class Average:
    """Averages of ``parameters``, named tensors that are trained in place."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        # Not their storage: what prepares a model for several processes gives it another.
        self._live = dict(parameters)
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    def update(self, step: int) -> None:
        """Take in the weights as they are after ``step`` steps."""
        decay = min(MOST_DECAY, (1 + step) / (WARM + step))
        with torch.no_grad():
            live = [self._live[name] for name in self.values]
            torch._foreach_lerp_(list(self.values.values()), live, 1 - decay)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from stored averages.

        Raises:
            KeyError, RuntimeError: they are those of other parameters.
        """
        for name, value in self.values.items():
            value.copy_(values[name])
