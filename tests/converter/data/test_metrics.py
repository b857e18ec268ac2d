from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aslconvert.converter.data.metrics import (
    AGREEMENT,
    AGREEMENT_TOP1,
    MSE,
    TOP1,
    Metric,
    Tally,
    drop,
    has_class_scores,
    metric_named,
    psnr,
)
from aslconvert.converter.errors import UsageError


def _tally(metric: Metric, outputs: Any, reference: Any, groups: list[int]) -> Tally:
    tally = Tally(metric)
    tally.add(outputs, reference, groups)
    return tally


def test_psnr_averages_mse_within_a_group_and_decibels_over_groups() -> None:
    target = torch.zeros(3, 1, 2, 2)
    output = torch.tensor([0.1, 0.3, 0.01]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    result = _tally(psnr(), output, target, [4, 4, 9]).result()
    want = (10 * math.log10(1 / 0.05) + 10 * math.log10(1 / 0.0001)) / 2
    assert result.value == pytest.approx(want, abs=1e-4)
    assert result.ci_low <= result.value <= result.ci_high
    assert (result.groups, result.samples, result.unit) == (2, 3, "dB")


def test_psnr_knows_its_peak_and_stays_finite() -> None:
    x = torch.rand(2, 3)
    assert _tally(psnr(), x, x, [0, 1]).result().value == pytest.approx(100.0)
    assert _tally(psnr(peak=255.0), x + 1, x, [0, 1]).result().value == pytest.approx(48.13, abs=0.01)


def test_top1_counts_samples_and_its_interval_covers_the_truth() -> None:
    scores = torch.eye(10).repeat(20, 1)
    label = torch.arange(10).repeat(20)
    label[:50] = (label[:50] + 1) % 10
    result = _tally(TOP1, scores, label, list(range(200))).result()
    assert result.value == pytest.approx(0.75)
    assert result.ci_low == pytest.approx(0.69, abs=0.015)
    assert result.ci_high == pytest.approx(0.81, abs=0.015)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 2.0))
def test_agreement_is_the_relative_error_over_all_outputs(seed: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, two = torch.randn(6, 3, generator=generator), torch.randn(6, 2, 2, generator=generator)
    outputs = {"one": one + noise, "two": (two * (1 + noise), torch.arange(6))}
    reference = {"one": one, "two": (two, torch.arange(6))}
    error = (one + noise - one).square().sum() + (two * noise).square().sum()
    want = math.sqrt(float(error) / float(one.square().sum() + two.square().sum()))
    assert _tally(AGREEMENT, outputs, reference, [0, 0, 1, 1, 2, 2]).result().value == pytest.approx(want, abs=1e-5)


def test_agreement_of_classes() -> None:
    scores = torch.eye(4)
    assert _tally(AGREEMENT_TOP1, scores.flip(0), scores, [0, 1, 2, 3]).result().value == 0.0
    assert _tally(AGREEMENT_TOP1, scores * 2, scores, [0, 1, 2, 3]).result().value == 1.0
    assert has_class_scores((scores,))
    assert not has_class_scores(torch.zeros(2, 3, 4, 4))


def test_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(1)
    output, target = torch.rand(9, 4, generator=generator), torch.rand(9, 4, generator=generator)
    groups = [0, 1, 2, 0, 1, 2, 0, 1, 2]
    whole, parts = _tally(psnr(), output, target, groups), Tally(psnr())
    for part in (slice(0, 4), slice(4, 5), slice(5, 9)):
        parts.add(output[part], target[part], np.array(groups[part]))
    assert parts.result().value == pytest.approx(whole.result().value)
    assert parts.result() == parts.result()


def test_a_paired_drop_is_tighter_than_its_parts() -> None:
    generator = torch.Generator().manual_seed(2)
    target = torch.rand(40, 50, generator=generator)
    # Pictures differ much in difficulty; the variant is a little worse on each of them.
    hardness = torch.logspace(-3, -1, 40).unsqueeze(1)
    noise = hardness * torch.randn(40, 50, generator=generator)
    groups = list(range(40))
    original = _tally(psnr(), target + noise, target, groups)
    variant = _tally(psnr(), target + 1.1 * noise, target, groups)
    loss = drop(original, variant)
    assert loss.value == pytest.approx(20 * math.log10(1.1), abs=1e-3)
    assert loss.ci_high - loss.ci_low < 0.01 < original.result().ci_high - original.result().ci_low
    assert not loss.higher_is_better


def test_a_drop_is_positive_for_the_worse_whatever_the_direction() -> None:
    target, groups = torch.zeros(4, 2), [0, 1, 2, 3]
    better, worse = _tally(MSE, target + 0.1, target, groups), _tally(MSE, target + 0.2, target, groups)
    assert drop(better, worse).value == pytest.approx(0.03, abs=1e-6)
    with pytest.raises(ValueError, match="same groups"):
        drop(better, _tally(MSE, target, target, [0, 1, 2, 4]))


@pytest.mark.parametrize(
    ("metric", "output", "reference"),
    [
        (psnr(), torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)),
        (TOP1, torch.zeros(2, 3), torch.tensor([0, 3])),
        (TOP1, torch.zeros(2, 3, 4), torch.tensor([0, 1])),
        (TOP1, torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1])),
        (AGREEMENT, torch.zeros(2, 3), torch.zeros(2, 4)),
    ],
)
def test_outputs_that_do_not_fit_are_told(metric: Metric, output: Any, reference: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Tally(metric).add(output, reference, [0, 1])
    assert caught.value.code == "data_shape"


def test_unknown_metrics_empty_tallies_and_nan_outputs_are_told() -> None:
    with pytest.raises(UsageError, match="psnr, top1, mse"):
        metric_named("ssim")
    with pytest.raises(UsageError, match="Nothing was scored"):
        Tally(TOP1).result()
    with pytest.raises(UsageError) as caught:
        _tally(MSE, torch.full((1, 2), float("nan")), torch.zeros(1, 2), [0]).result()
    assert caught.value.code == "metric_not_finite"
