"""Wishes out of reach, plans without effect, and folders that do not fit: told in time, with the right exit code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aslconvert.converter.errors import TargetNotReached, UsageError
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline import convert, plan_search, planning
from aslconvert.converter.search import candidates

pytestmark = pytest.mark.long


class Listener:
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def update(self, done: float, total: float, unit: str, **figures: float) -> None:
        assert 0 <= done <= total * 1.5

    def note(self, text: str) -> None:
        self.notes.append(text)


class Slow(nn.Module):
    """Nearly all of its time goes where no convolution is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for _ in range(12):
            x = torch.sin(x) + torch.tanh(x)
        return x


def test_a_net_that_gains_nothing_is_left_alone(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine two timings of three rounds may differ by more than a twentieth, with nothing gained.
    monkeypatch.setattr(plan_search, "LEAST_GAIN", 1.7)
    program = torch.export.export(Slow().eval(), (torch.zeros(2, 1, 32, 32),))
    torch.export.save(program, tmp_path / "slow.pt2")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((40, 1, 32, 32), dtype=np.float32))
    out = tmp_path / "out"
    with pytest.raises(TargetNotReached) as caught:
        convert(
            str(tmp_path / "slow.pt2"),
            data=str(tmp_path / "data.npz"),
            out=out,
            options=ConvertOptions(min_speedup=3.0, budget_seconds=1.0, threads=1),
        )
    assert (caught.value.code, caught.value.exit_code) == ("does_not_pay", 5)
    assert not out.exists()


def test_a_dry_run_plans_and_writes_nothing(
    quick: None, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One aim is enough to show it.
    monkeypatch.setattr(planning, "LADDER", (1.0,))
    monkeypatch.setattr(planning, "LEAST_VARIANTS", 1)
    monkeypatch.setattr(candidates, "IN_ORDER_TIMES", (1, 2))
    listener, out = Listener(), tmp_path / "out"
    report = convert(
        str(workshop / "net.pt2"),
        data=str(workshop / "data.npz"),
        out=out,
        options=ConvertOptions(min_speedup=1.5, dry_run=True, threads=1, allow=("prune",)),
        progress=listener,
    )
    assert not out.exists()
    assert not list(tmp_path.iterdir())
    assert report.variants == ()
    assert report.chosen is None
    assert {site.action for site in report.sites} <= {"asl", "keep"}
    assert any("times as fast" in note for note in listener.notes)
    # Pruned variants are planned too; the one that cannot be had is named in the report.
    planned = [note for note in listener.notes if "-pruned" in note and "before healing" in note]
    assert "pruned plans" in listener.stages
    assert planned or report.variants_left_out


def test_a_fixed_batch_wants_splits_that_fill_it(quick: None, tmp_path: Path) -> None:
    program = torch.export.export(nn.Conv2d(1, 2, 3).eval(), (torch.zeros(8, 1, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    splits = np.array([0] * 5 + [1] * 8 + [2] * 8 + [3] * 8)
    np.savez(tmp_path / "data.npz", input=np.zeros((29, 1, 8, 8), dtype=np.float32), split=splits)
    with pytest.raises(UsageError) as caught:
        convert(
            str(tmp_path / "net.pt2"), data=str(tmp_path / "data.npz"), out=tmp_path / "out", options=ConvertOptions()
        )
    assert caught.value.code == "too_few_samples"
    assert "calibrate" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_metric_of_ones_own_needs_a_wish(quick: None, workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.py").write_text(
        "def close(outputs, original):\n    return -(outputs - original).flatten(1).std(1)\n"
    )
    with pytest.raises(UsageError, match="How much of close may be lost") as caught:
        convert(
            str(workshop / "net.pt2"),
            data=str(workshop / "data.npz"),
            out=tmp_path / "out",
            options=ConvertOptions(metric=f"{tmp_path / 'scores.py'}:close", threads=1),
        )
    assert caught.value.code == "metric"
    assert not (tmp_path / "out").exists()
