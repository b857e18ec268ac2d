"""`export` writes a .pt2 from the user's code, `verify` reloads what a conversion wrote."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from aslconvert.cli.main import main
from aslconvert.cli.views import show_verification
from aslconvert.converter.export.write import write_artifacts
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import load_program

NET = """
import torch
from torch import nn

def small():
    print("hello from the user's code")
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), (torch.zeros(1, 3, 8, 8),)

def broken():
    raise ValueError("no weights")
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "small_net.py"
    path.write_text(NET)
    return path


def test_export_writes_what_plain_torch_loads(net: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "model.pt2"
    assert main(["export", f"{net}:small", "-o", str(target), "--json"]) == 0
    captured = capfd.readouterr()
    answer = json.loads(captured.out)
    assert answer["path"] == target.as_posix()
    assert list(answer["dynamic_axes"].values()) == [[0, 2, 3]]
    assert "hello from the user's code" in captured.err
    module = torch.export.load(target).module()
    assert module(torch.zeros(3, 3, 10, 12)).shape == (3, 4, 10, 12)


def test_a_broken_factory_leaves_with_3(net: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"{net}:broken", "-o", str(tmp_path / "model.pt2")]) == 3
    assert "no weights" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folder(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = load_program(f"{net}:small")
    target = tmp_path_factory.mktemp("artifacts")
    write_artifacts(target, graph_module(program), program, kinds=("portable", "weights"))
    return target


def test_verify_lists_every_artifact(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--json"]) == 0
    results = json.loads(capfd.readouterr().out)["artifacts"]
    assert {result["kind"] for result in results} == {"portable", "weights"}
    assert all(result["reloaded"] and result["max_abs_diff"] <= result["tolerance"] for result in results)
    page = Console(file=io.StringIO(), record=True, width=120)
    show_verification(results, page)
    assert "portable.pt2" in page.export_text()


def test_verify_leaves_with_6_when_a_file_was_changed(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in folder.iterdir():
        # What is asked for is noticed by its hash: nothing of it is loaded any more.
        extra = b"x" if path.name in ("portable.pt2", "weights.safetensors") else b""
        (tmp_path / path.name).write_bytes(path.read_bytes() + extra)
    assert main(["verify", str(tmp_path), "--json"]) == 6
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "artifact_changed"


def test_verify_of_an_empty_folder_leaves_with_2(tmp_path: Path) -> None:
    assert main(["verify", str(tmp_path)]) == 2
