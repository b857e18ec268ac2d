"""How well the plans foresaw what was then measured: the speed-up of each variant, and the order of the losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from aslconvert.converter.report.schema import Report

WITHIN = 0.10
"""A predicted latency this close to the measured one counts as right."""


@dataclass(frozen=True)
class Prediction:
    """Errors of the predicted latencies as shares, and how the order of predicted damages agrees with that of losses.

    ``order`` is Spearman's rank correlation over ``ordered`` variants; None for fewer than three, or if all are equal.
    """

    median_error: float | None
    worst_error: float | None
    close: int
    timed: int
    order: float | None
    ordered: int

    @property
    def sentence(self) -> str:
        """One line for people; empty where nothing was predicted."""
        parts = []
        if self.median_error is not None:
            parts.append(
                f"speed-ups {self.median_error:.1%} off in the median, {self.worst_error:.1%} at most, "
                f"{self.close} of {self.timed} within {WITHIN:.0%}"
            )
        if self.order is not None:
            parts.append(f"order of losses: Spearman {self.order:.2f} over {self.ordered} variants")
        return f"Predicted before healing: {'; '.join(parts)}" if parts else ""


def prediction_of(report: Report) -> Prediction:
    """Compare what the plans of ``report`` predicted with what was measured."""
    errors = [abs(v.prediction_error) for v in report.variants if v.prediction_error is not None]
    pairs = [
        (v.predicted_damage, v.agreement.relative_l2 if v.loss is None else v.loss.value)
        for v in report.variants
        if v.predicted_damage is not None
    ]
    return Prediction(
        median_error=median(errors) if errors else None,
        worst_error=max(errors, default=None),
        close=sum(error <= WITHIN for error in errors),
        timed=len(errors),
        order=_spearman(pairs),
        ordered=len(pairs),
    )


def _spearman(pairs: list[tuple[float, float]]) -> float | None:
    # The correlation of a column without differences is not defined.
    if len(pairs) < 3 or any(len({pair[column] for pair in pairs}) == 1 for column in (0, 1)):
        return None
    from scipy.stats import spearmanr  # slow to import

    order = float(spearmanr([damage for damage, _ in pairs], [loss for _, loss in pairs]).statistic)
    return order if math.isfinite(order) else None
