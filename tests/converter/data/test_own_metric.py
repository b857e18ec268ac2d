"""Metrics of segmentation, and of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aslconvert.converter.data.load import load_dataset
from aslconvert.converter.data.metrics import Tally, metric_named
from aslconvert.converter.data.own_metric import own_metric
from aslconvert.converter.errors import UsageError
from aslconvert.converter.pipeline.judge import Judge, metric_for

SOURCE = """
import torch

def close(outputs, target):
    return (outputs - target).abs().flatten(1).mean(1)

close.better = "down"

def like_the_original(outputs, reference):
    return -(outputs - reference).square().flatten(1).sum(1)

like_the_original.reference = "original"

def one_number(outputs, target):
    return outputs.mean()

def broken(outputs, target):
    raise KeyError("threshold")

def wrong(outputs, target):
    return outputs.flatten(1).mean(1)

wrong.better = "sideways"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "scores.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_miou_is_the_mean_over_the_classes_that_occur(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 6, 5, 7, generator=generator)
    wanted = torch.randint(0, 4, (4, 5, 7), generator=generator)
    wanted[0, :2] = 255
    tally = Tally(metric_named("miou"))
    tally.add(scores[:3], wanted[:3], [0, 0, 1])
    tally.add(scores[3:], wanted[3:], [2])
    given, known = scores.argmax(1), wanted != 255
    overlaps = []
    for number in range(6):
        a, b = (given == number) & known, (wanted == number) & known
        if (a | b).any():
            overlaps.append(float((a & b).sum() / (a | b).sum()))
    assert tally.result().value == pytest.approx(sum(overlaps) / len(overlaps))
    perfect = Tally(metric_named("miou"))
    perfect.add(torch.nn.functional.one_hot(wanted.clamp(max=5), 6).movedim(-1, 1).float(), wanted, range(4))
    assert perfect.result().value == 1.0


def test_miou_wants_maps_of_classes() -> None:
    for target in (torch.zeros(2, 4, 4), torch.zeros(2, 3, 3, dtype=torch.int64)):
        with pytest.raises(UsageError) as caught:
            Tally(metric_named("miou")).add(torch.randn(2, 3, 4, 4), target, [0, 1])
        assert caught.value.code == "data_shape"


def test_a_function_scores_every_sample(source: Path) -> None:
    metric = own_metric(f"{source}:close", default="target")
    assert (metric.name, metric.better, metric.reference) == ("close", "down", "target")
    tally = Tally(metric)
    tally.add(torch.zeros(3, 1, 2, 2), torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2), [0, 1, 2])
    assert tally.result().value == 3.0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("one_number", "one finite number a sample"),
        ("broken", "KeyError"),
        ("wrong", "better"),
        ("absent", "has no function"),
    ],
)
def test_what_is_wrong_with_a_function_is_told(source: Path, name: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Tally(own_metric(f"{source}:{name}", default="target")).add(torch.zeros(2, 1), torch.zeros(2, 1), [0, 1])
    assert caught.value.code == "metric"
    assert told in f"{caught.value.message} {caught.value.hint}"


def test_a_function_may_hold_outputs_against_the_originals(source: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((40, 3, 4, 4), dtype=np.float32))
    test = load_dataset(str(tmp_path / "data.npz")).split("test")
    metric = metric_for(test, f"{source}:like_the_original")
    judge = Judge(lambda x: 2 * x, test, metric=metric, batch=None, seed=0)
    same, other = judge.score(lambda x: 2 * x), judge.score(lambda x: 2 * x + 1)
    assert same.loss == 0.0
    assert other.loss == pytest.approx(48.0, rel=1e-4)
    # The data has no target, so a function that says nothing is handed the original's outputs too.
    assert metric_for(test, f"{source}:one_number").reference == "original"
