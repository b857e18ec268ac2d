"""`aslconvert bench` times files and folders, and says why a runtime has no figure."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from aslconvert.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).eval()
    program = torch.export.export(net, (torch.zeros(1, 3, 8, 8),))
    path = tmp_path_factory.mktemp("bench") / "model.pt2"
    torch.export.save(program, path)
    return path


def bench(*arguments: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    code = main(["bench", *arguments, "--rounds", "3", "--threads", "1", "--json"])
    answer = json.loads(capfd.readouterr().out)
    assert isinstance(answer, dict), answer
    return code, answer


def test_a_file_in_two_runtimes(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = bench(str(model), "--runtime", "torch,torch_channels_last", capfd=capfd)
    assert code == 0, answer
    rows = answer["rows"]
    assert isinstance(rows, list)
    assert [row["runtime"] for row in rows] == ["torch", "torch_channels_last"]
    assert all(row["latency"]["p50_ms"] > 0 for row in rows)
    assert answer["shapes"] == [[1, 3, 8, 8]]


def test_the_table_names_the_file(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(model), "--runtime", "torch", "--rounds", "3", "--threads", "1"]) == 0
    assert "model.pt2" in capfd.readouterr().out


def test_a_folder_is_timed_by_its_artifacts(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "portable.pt2").write_bytes(model.read_bytes())
    (tmp_path / "fast.pt2").write_bytes(model.read_bytes())
    code, answer = bench(str(tmp_path), "--runtime", "torch", capfd=capfd)
    assert code == 0
    rows = answer["rows"]
    assert isinstance(rows, list)
    assert {row["file"] for row in rows} == {"portable.pt2", "fast.pt2"}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (["--runtime", "abacus"], 2, "unknown_runtime"),
        (["--runtime", "torch", "--shape", "1x5x8x8"], 2, "data_shape"),
    ],
)
def test_what_cannot_be_timed(
    model: Path, arguments: list[str], exit_code: int, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    got, answer = bench(str(model), *arguments, capfd=capfd)
    error = answer["error"]
    assert isinstance(error, dict)
    assert (got, error["code"]) == (exit_code, code)


def test_a_shape_that_an_onnx_file_does_not_take(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", image[:1], image[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "fixed.onnx")
    arguments = [str(tmp_path / "fixed.onnx"), "--shape", "1x3x5x5", "--runtime", "onnxruntime"]
    code, answer = bench(*arguments, capfd=capfd)
    error = answer["error"]
    assert isinstance(error, dict)
    assert (code, error["code"]) == (2, "data_shape")
    assert "1x3x5x5" in error["message"]


def test_an_empty_folder_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = bench(str(tmp_path), capfd=capfd)
    assert code == 2
    assert "portable.pt2" in json.dumps(answer)


def test_a_folder_is_timed_beside_its_original_and_other_inputs_are_told(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(model, tmp_path / "portable.pt2")
    _, answer = bench(str(tmp_path), "--runtime", "torch", capfd=capfd)
    assert "--original MODEL" in json.dumps(answer["notes"])
    (shape,) = answer["shapes"]  # type: ignore[misc]  # the JSON has one list there
    told = [8, *shape[1:]]
    (tmp_path / "report.json").write_text(json.dumps({"latency_inputs": [told]}))
    _, answer = bench(str(tmp_path), "--runtime", "torch", "--original", str(model), capfd=capfd)
    rows = answer["rows"]
    assert isinstance(rows, list)
    assert [(row["file"], row["runtime"]) for row in rows] == [("portable.pt2", "torch"), ("original", "torch")]
    (note,) = answer["notes"]  # type: ignore[misc]  # likewise
    assert "x".join(map(str, told)) in note
