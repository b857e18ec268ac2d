"""`aslconvert inspect --predict` tells points to expect, with and without data, and writes nothing but the cache."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick_measurements import quicken

from aslconvert.cli.main import main
from aslconvert.converter.cost import spread
from aslconvert.converter.pipeline import plan_search, predict
from aslconvert.converter.search import candidates

pytestmark = pytest.mark.long

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(48, 3, 1)), (torch.zeros(2, 3, 24, 24),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predict")
    (path / "predicted_net.py").write_text(NET)
    noise = np.random.default_rng(0).random((40, 3, 6, 6), dtype=np.float32)
    np.savez(path / "data.npz", input=noise.repeat(4, 2).repeat(4, 3))
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr, patch.setitem)
        for module in (plan_search, predict):
            # Whether it pays is not what is tested, nor whether a busy machine takes equally long twice.
            patch.setattr(module, "LEAST_GAIN", 0.01)
        patch.setattr(spread, "STALE", 1e9)
        patch.setattr(candidates, "IN_ORDER_TIMES", (1, 2))
        patch.setenv("ASLCONVERT_CACHE", str(folder))
        yield folder


def run(folder: Path, *arguments: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    model = f"{folder / 'predicted_net.py'}:net"
    code = main(["inspect", model, "--predict", "--threads", "1", *arguments, "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_with_data_there_are_speed_ups_and_losses_and_then_a_cache(
    folder: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in folder.iterdir()}
    code, answer = run(folder, "--data", str(folder / "data.npz"), "--max-drop", "0.5", capfd=capfd)
    assert code == 0, answer
    found = answer["prediction"]
    points = found["points"]
    assert points
    assert [point["speedup"] for point in points] == sorted(point["speedup"] for point in points)
    assert all(point["relative_l2"] >= 0 for point in points)
    asked = next(point for point in points if point["id"] == found["answer"])
    assert asked["relative_l2"] <= 0.5
    assert asked["speedup"] == max(p["speedup"] for p in points if p["relative_l2"] <= 0.5)
    assert "onnxruntime" in found["latency"]
    smallest = min(point["params"] for point in points)
    assert found["original"]["params"] > smallest
    # Nothing is written but the cache, and beside the factory Python's own.
    assert {path.name for path in folder.iterdir()} - before <= {"__pycache__"}
    assert len(list(cache.rglob("*.json"))) == 1
    # A second look takes the latencies from there. Without data they are all that is told.
    limit = ("--max-params-mb", str(smallest * 4 * 1.5 / 1e6))
    code, answer = run(folder, *limit, "--min-speedup", "0.001", capfd=capfd)
    assert code == 0, answer
    found = answer["prediction"]
    assert found["cached"] == 2
    assert any("from the cache" in note for note in found["notes"])
    assert any("--data" in note for note in found["notes"])
    assert found["points"]
    assert all(point["params"] <= smallest * 1.5 for point in found["points"])
    assert all(point["relative_l2"] is None for point in found["points"])
    assert found["answer"] in {point["id"] for point in found["points"]}


def test_what_is_out_of_reach_leaves_with_5_and_the_points(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = f"{folder / 'predicted_net.py'}:net"
    arguments = ["inspect", model, "--predict", "--threads", "1", "--no-cache", "--min-speedup", "100000"]
    assert main(arguments) == 5
    page = capfd.readouterr().out
    assert "no plan is predicted to reach what was asked" in page
    assert "onnxruntime" in page
    # How many sites the fastest plan shifts is for the latencies of the day to say.
    assert re.search(r"\b[12] of 2\b", page)
    assert "from the cache" not in page


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
