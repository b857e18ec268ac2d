"""Every command takes every kind of model: .onnx, arch:NAME and factories."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save_model
from torch import nn

from aslconvert.cli.main import main

NET = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), (torch.zeros(1, 3, 8, 8),)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "small_factory.py").write_text(NET)
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "stem.weight", "stem.bias"], ["c"], name="stem", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"], name="relu"),
        ],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(p.detach().numpy(), f"stem.{n}") for n, p in conv.named_parameters()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save_model(model, folder / "small.onnx")
    graph.node[1].op_type = "NonMaxSuppression"
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "beyond.onnx")
    return {
        "onnx": str(folder / "small.onnx"),
        "beyond": str(folder / "beyond.onnx"),
        "factory": f"{folder / 'small_factory.py'}:small",
        "arch": "arch:pytorchcv/resnet20_cifar10",
    }


def run(*arguments: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = main([*arguments, "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_inspect_names_the_sites_of_an_onnx_file(models: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = run("inspect", models["onnx"], capfd=capfd)
    assert (code, answer["inputs"]) == (0, ["image [*, 3, 8, 8]"])
    assert [site["name"] for site in answer["sites"]] == ["stem"]


def test_inspect_takes_an_architecture(models: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = run("inspect", models["arch"], capfd=capfd)
    assert code == 0
    assert len([site for site in answer["sites"] if site["action"] == "asl"]) == 19


@pytest.mark.parametrize("kind", ["onnx", "factory"])
def test_export_writes_a_pt2_of_it(
    models: dict[str, str], kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.pt2"
    code, answer = run("export", models[kind], "-o", str(target), capfd=capfd)
    assert (code, answer["path"]) == (0, target.as_posix())
    assert torch.export.load(target).module()(torch.zeros(5, 3, 8, 8)).shape == (5, 4, 8, 8)


@pytest.mark.parametrize(("kind", "file"), [("onnx", "small.onnx"), ("factory", "small_factory.py:small")])
def test_bench_times_it(models: dict[str, str], kind: str, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    limits = ("--runtime", "torch,onnxruntime", "--rounds", "3", "--threads", "1")
    code, answer = run("bench", models[kind], *limits, capfd=capfd)
    assert code == 0, answer
    assert [(row["file"], row["runtime"], row["unavailable"]) for row in answer["rows"]] == [
        (file, "torch", None),
        (file, "onnxruntime", None),
    ]


@pytest.mark.parametrize("command", ["inspect", "export", "convert"])
def test_an_operator_beyond_the_importer_is_refused_by_name(
    models: dict[str, str], command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    extra = {
        "export": ["-o", str(tmp_path / "model.pt2")],
        "convert": ["--data", str(tmp_path), "--out", str(tmp_path / "out")],
    }
    code, answer = run(command, models["beyond"], *extra.get(command, []), capfd=capfd)
    assert (code, answer["error"]["code"]) == (3, "unsupported_operator")
    assert "'relu' (NonMaxSuppression)" in answer["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_architecture_is_answered_with_a_list(capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = run("inspect", "arch:resnet19", capfd=capfd)
    assert (code, answer["error"]["code"]) == (3, "unknown_architecture")
    assert "resnet-18" in answer["error"]["hint"]
