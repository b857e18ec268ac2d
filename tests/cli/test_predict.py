"""`aslconvert inspect --predict` tells points to expect, with and without data, and writes nothing but the cache."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aslconvert.cli.main import main
from aslconvert.converter.cost import spread
from aslconvert.converter.pipeline import planning, predict

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(48, 3, 1)), (torch.zeros(2, 3, 48, 48),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predict")
    (path / "predicted_net.py").write_text(NET)
    noise = np.random.default_rng(0).random((40, 3, 12, 12), dtype=np.float32)
    np.savez(path / "data.npz", input=noise.repeat(4, 2).repeat(4, 3))
    return path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(planning, "QUICK_ROUNDS", 3)
    monkeypatch.setattr(predict, "QUICK_ROUNDS", 3)
    # Whether it pays is not what is tested, nor whether a busy machine takes equally long twice.
    monkeypatch.setattr(planning, "LEAST_GAIN", 0.01)
    monkeypatch.setattr(predict, "LEAST_GAIN", 0.01)
    monkeypatch.setattr(spread, "STALE", 1e9)
    monkeypatch.setenv("ASLCONVERT_CACHE", str(tmp_path / "cache"))


def run(folder: Path, *arguments: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    model = f"{folder / 'predicted_net.py'}:net"
    code = main(["inspect", model, "--predict", "--threads", "1", *arguments, "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_with_data_there_are_speed_ups_and_losses(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    data = ("--data", str(folder / "data.npz"))
    code, answer = run(folder, *data, "--max-drop", "0.5", capfd=capfd)
    assert code == 0, answer
    found = answer["prediction"]
    points = found["points"]
    assert len(points) >= 2
    assert [point["speedup"] for point in points] == sorted(point["speedup"] for point in points)
    assert all(point["relative_l2"] >= 0 for point in points)
    asked = next(point for point in points if point["id"] == found["answer"])
    assert asked["relative_l2"] <= 0.5
    assert asked["speedup"] == max(p["speedup"] for p in points if p["relative_l2"] <= 0.5)
    assert found["cached"] == 0
    assert "onnxruntime" in found["latency"]
    assert found["original"]["params"] > min(point["params"] for point in points)
    assert sorted(path for path in folder.iterdir() if path.suffix != "" or path.is_file()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    # A second look takes the latencies from the cache, and without it they are measured.
    smallest = min(point["params"] for point in points)
    limit = ("--max-params-mb", str(smallest * 4 * 1.5 / 1e6))
    code, answer = run(folder, *data, *limit, capfd=capfd)
    assert code == 0, answer
    assert answer["prediction"]["cached"] == 2
    assert all(point["params"] <= smallest * 1.5 for point in answer["prediction"]["points"])
    assert any("cache" in note for note in answer["prediction"]["notes"])


def test_without_data_latency_alone_is_told(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = run(folder, "--min-speedup", "0.001", "--no-cache", capfd=capfd)
    assert code == 0, answer
    found = answer["prediction"]
    assert found["points"]
    assert all(point["relative_l2"] is None for point in found["points"])
    assert found["answer"] in {point["id"] for point in found["points"]}
    assert any("--data" in note for note in found["notes"])
    assert answer["data"] is None


def test_what_is_out_of_reach_leaves_with_5_and_the_points(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = run(folder, "--min-speedup", "100000", capfd=capfd)
    assert code == 5
    assert answer["prediction"]["met"] is False
    assert answer["prediction"]["answer"] is None
    assert answer["prediction"]["points"]
    main(["inspect", f"{folder / 'predicted_net.py'}:net", "--predict", "--threads", "1", "--min-speedup", "100000"])
    page = capfd.readouterr().out
    assert "no plan is predicted to reach what was asked" in page
    assert "onnxruntime" in page


@pytest.mark.parametrize("limit", [("--max-params-mb", "0.00001"), ("--max-macs", "1k")])
def test_limits_that_nothing_keeps_leave_with_5(
    folder: Path, limit: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    code, answer = run(folder, *limit, capfd=capfd)
    assert (code, answer["error"]["code"]) == (5, "limits_not_reached")
    assert limit[0] in answer["error"]["hint"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--max-drop", "0.1", "--predict"], "needs_data"),
        (["--min-speedup", "2"], "needs_predict"),
        (["--max-macs", "1G"], "needs_predict"),
        (["--predict", "--max-macs", "many"], "bad_amount"),
        (["--predict", "--max-drop", "1", "--min-speedup", "2"], "two_targets"),
    ],
)
def test_questions_that_cannot_be_answered_leave_with_2(
    folder: Path, arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", f"{folder / 'predicted_net.py'}:net", *arguments, "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == told
