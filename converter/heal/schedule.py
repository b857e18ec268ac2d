"""The learning-rate curve of healing: a short warm-up, then a cosine to zero at the end of the budget."""

from __future__ import annotations

import math

WARM_UP = 0.05
"""Share of the run over which the rate rises: the first steps would else undo part of the fit."""


def rate_factor(progress: float) -> float:
    """Factor on the base rates at ``progress`` in [0, 1] of the run."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
