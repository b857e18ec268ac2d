"""A path that leads nowhere has one exit code, whichever command it is given to: 3 as a model, 2 as anything else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aslconvert.cli.main import main

NOWHERE = "http://127.0.0.1:1"
"""Nothing is asked of it: paths are looked at first."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths")
    program = torch.export.export(nn.Conv2d(3, 4, 3, padding=1).eval(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, folder / "model.pt2")
    np.savez(folder / "data.npz", input=np.zeros((4, 3, 8, 8), np.float32))
    (folder / "empty").mkdir()
    (folder / "text").write_text("nothing that anybody reads")
    return folder


MODELS = [
    ["export", "MODEL", "-o", "out.pt2"],
    ["inspect", "MODEL"],
    ["inspect", "MODEL", "--data", "data.npz", "--predict"],
    ["convert", "MODEL", "--data", "data.npz", "--out", "out"],
    ["convert", "MODEL", "--data", "data.npz", "--out", "out", "--server", NOWHERE],
    ["submit", "MODEL", "--data", "data.npz", "--server", NOWHERE],
    ["submit", "MODEL", "--kind", "inspect", "--server", NOWHERE],
    ["bench", "MODEL"],
]
OTHERS = [
    ["verify", "PATH"],
    ["inspect", "model.pt2", "--data", "PATH"],
    ["convert", "model.pt2", "--data", "PATH", "--out", "out"],
    ["convert", "model.pt2", "--data", "PATH", "--out", "out", "--server", NOWHERE],
    ["submit", "model.pt2", "--data", "PATH", "--server", NOWHERE],
    ["status", "--key-file", "PATH", "--server", NOWHERE],
    ["download", "x", "--out", "out", "--key-file", "PATH", "--server", NOWHERE],
]


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (command, path)
        for command in MODELS
        for path in ("none.onnx", "none/model.pt2", "none.py:factory", "none", "text")
        # What is in a file that is sent is looked at by the service.
        if path != "text" or NOWHERE not in command
    ],
)
def test_a_model_that_is_not_there_leaves_with_3(
    command: list[str], path: str, files: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert left(command, "MODEL", path, files, capfd, monkeypatch)[0] == 3


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
@pytest.mark.parametrize("path", ["none", "none/of/it"])
def test_any_other_path_that_is_not_there_leaves_with_2(
    command: list[str], path: str, files: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert left(command, "PATH", path, files, capfd, monkeypatch)[0] == 2


@pytest.mark.parametrize("command", [["verify", "PATH"], ["bench", "PATH"]], ids=" ".join)
def test_a_folder_that_no_conversion_wrote_leaves_with_2(
    command: list[str], files: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert left(command, "PATH", "empty", files, capfd, monkeypatch) == (2, "no_artifacts")


def left(
    command: list[str],
    word: str,
    path: str,
    files: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[int, str]:
    monkeypatch.chdir(files)
    monkeypatch.setenv("ASLCONVERT_KEY", f"asl_{'0' * 16}_{'0' * 64}")
    capfd.readouterr()
    code = main([path if part == word else part for part in command] + ["--json"])
    assert not (files / "out").exists()
    return code, json.loads(capfd.readouterr().out)["error"]["code"]
