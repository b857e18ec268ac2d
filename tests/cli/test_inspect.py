"""`aslconvert inspect` says what would be converted, what kept and why, and what the model would see."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aslconvert.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 5),
        nn.Conv2d(8, 8, 1),
    ]
    net = nn.Sequential(*layers).eval()
    path = tmp_path_factory.mktemp("inspect") / "model.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 12, 12),)), path)
    return path


def test_every_convolution_is_listed_with_its_reason(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--keep", "3*", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    actions = {site["name"]: (site["action"], site["reason"]) for site in report["sites"]}
    assert actions == {
        "0": ("asl", ""),
        "2": ("asl", ""),
        "3": ("keep", "kept_by_user"),
        "4": ("keep", "pointwise"),
    }
    macs, after = (sum(site[key] for site in report["sites"]) for key in ("macs", "macs_after"))
    assert (report["macs"], report["macs_after"]) == (macs, after)
    assert report["predicted_gain"] == macs / after
    # Kept convolutions cost what they cost: 8x8 channels of 5x5 taps on 6x6 pixels, and of 1x1 taps.
    kept = {site["name"]: (site["macs"], site["macs_after"]) for site in report["sites"] if site["action"] == "keep"}
    assert kept == {"3": (57600, 57600), "4": (2304, 2304)}
    assert report["data"] is None


def test_it_shows_what_the_model_would_see(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, input=np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12)).astype(np.uint8))
    assert main(["inspect", str(model), "--data", str(data), "--scale", "1/255", "--json"]) == 0
    seen = json.loads(capfd.readouterr().out)["data"]
    assert seen["shapes"] == [[3, 12, 12]]
    assert 0 <= seen["ranges"][0][0] < seen["ranges"][0][1] <= 1
    assert sum(seen["samples"].values()) == 40
    assert main(["inspect", str(model), "--data", str(data)]) == 0
    page = capfd.readouterr().out
    assert "pointwise" in page
    assert "12x12" in page


def test_data_that_does_not_fit_leaves_with_2(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, input=np.zeros((40, 1, 12, 12), dtype=np.float32) + np.arange(40)[:, None, None, None])
    assert main(["inspect", str(model), "--data", str(data), "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "data_shape"


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"PK\x03\x04 cut short"])
def test_what_is_no_model_leaves_with_3(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    assert main(["inspect", str(path)]) == 3
    assert capfd.readouterr().err.startswith("aslconvert: error [")
