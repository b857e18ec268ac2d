"""`aslconvert convert` refuses what cannot work before it writes, and an interrupted run can go on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aslconvert.cli.main import main

NET = """
import torch
from torch import nn

def dense():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)]
    return nn.Sequential(*layers), (torch.zeros(1, 3, 16, 16),)

def pointwise():
    return nn.Sequential(nn.Conv2d(3, 8, 1)), (torch.zeros(1, 3, 16, 16),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("convert")
    (path / "convert_net.py").write_text(NET)
    images = np.random.default_rng(0).random((60, 3, 16, 16), dtype=np.float32)
    np.savez(path / "data.npz", input=images)
    broken = images.copy()
    broken[7, 0, 3, 3] = np.nan
    np.savez(path / "broken.npz", input=broken)
    np.savez(path / "grey.npz", input=images[:, :1])
    return path


@pytest.mark.parametrize(
    ("factory", "data", "exit_code", "code"),
    [
        ("pointwise", "data.npz", 4, "nothing_to_convert"),
        ("dense", "broken.npz", 2, "data_nan"),
        ("dense", "grey.npz", 2, "data_shape"),
        ("dense", "none.npz", 2, "data_not_found"),
        ("missing", "data.npz", 3, "factory_failed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    folder: Path,
    tmp_path: Path,
    factory: str,
    data: str,
    exit_code: int,
    code: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = ["convert", f"{folder / 'convert_net.py'}:{factory}", "--data", str(folder / data), "--out", str(out)]
    assert main([*arguments, "--json"]) == exit_code
    assert json.loads(capfd.readouterr().out)["error"]["code"] == code
    assert not out.exists()


def test_an_unknown_kind_of_variant_is_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["convert", f"{folder / 'convert_net.py'}:dense", "--data", str(folder / "data.npz")]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--allow", "prune,magic", "--json"]) == 2
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["code"] == "bad_allow"
    assert "magic" in error["message"]
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    model, data, out = f"{folder / 'convert_net.py'}:dense", str(folder / "data.npz"), tmp_path / "out"
    command = [sys.executable, "-m", "aslconvert.cli.main", "convert", model, "--data", data, "--out", str(out)]
    # Nothing is compiled, which takes longer than all the rest.
    environment = {**os.environ, "CXX": "no-such-compiler"}
    with subprocess.Popen(
        [*command, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("time the original"):
                run.send_signal(signal.SIGINT)
                break
        rest = run.stderr.read()
        assert run.wait(timeout=60) == 130
    assert "--resume" in rest
    assert "Traceback" not in rest
    assert not [path for path in out.rglob("*") if path.suffix in {".pt2", ".onnx", ".html", ".json"}]
