from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from aslconvert.converter.cost import runtimes
from aslconvert.converter.cost.device import device_profile, usable_cores
from aslconvert.converter.cost.runtimes import (
    RUNTIMES,
    available_runtimes,
    compile_runner,
    faster_in_channels_last,
    onnx_runner,
    openvino_runner,
    torch_runner,
)
from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.threads import torch_threads


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(self.conv(x)) + y


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def inputs() -> list[Tensor]:
    return [torch.rand(2, 3, 5, 5), torch.rand(2, 4, 5, 5)]


def test_eager_runners_compute_the_module(net: Net, inputs: list[Tensor]) -> None:
    want = net(*inputs).detach()
    torch.testing.assert_close(torch_runner(net, inputs)(), want)
    out = torch_runner(net, inputs, channels_last=True)()
    torch.testing.assert_close(out, want)
    assert out.is_contiguous(memory_format=torch.channels_last)


class Viewed(nn.Module):
    """Written for contiguous images: a view of one in channels_last cannot be had."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1)


class Slowed(nn.Module):
    """Takes longer in the layout that it is told."""

    def __init__(self, layout: torch.memory_format) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20 if x.is_contiguous(memory_format=self.layout) else 1):
            x = torch.sin(x)
        return x


def test_the_layout_is_the_one_that_runs_and_is_faster() -> None:
    x = (torch.rand(1, 8, 64, 64),)
    with pytest.raises(InfrastructureError, match="channels_last"):
        torch_runner(Viewed(), x, channels_last=True)
    assert not faster_in_channels_last(Viewed(), x)
    assert faster_in_channels_last(Slowed(torch.contiguous_format), x)
    assert not faster_in_channels_last(Slowed(torch.channels_last), x)


def test_channels_last_leaves_the_given_module_alone(net: Net, inputs: list[Tensor]) -> None:
    torch_runner(net, inputs, channels_last=True)
    assert net.conv.weight.is_contiguous()
    assert all(x.is_contiguous() for x in inputs)


def test_the_compiled_runner_computes_the_module(net: Net, inputs: list[Tensor]) -> None:
    if reason := available_runtimes()["compile"]:
        pytest.skip(reason)
    torch.testing.assert_close(compile_runner(net, inputs)(), net(*inputs).detach())


def test_no_compiler_is_a_reason_not_a_crash(
    net: Net, inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = available_runtimes()["compile"]
    assert reason is not None
    assert "g++" in reason
    with pytest.raises(InfrastructureError, match="no C") as caught:
        compile_runner(net, inputs)
    assert caught.value.code == "runtime_unavailable"


def _onnx_file(path: Path) -> Path:
    shape = ["n", 3]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b", "out")]
    graph = helper.make_graph([helper.make_node("Sub", ["a", "b"], ["out"])], "difference", values[:2], values[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_onnx_runtime_gets_its_inputs_in_order_and_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen: list[int] = []
    session = onnxruntime.InferenceSession

    def spying(path: str, options: onnxruntime.SessionOptions, **rest: object) -> object:
        seen.append(options.intra_op_num_threads)
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spying)
    a, b = torch.rand(2, 3), torch.rand(2, 3)
    (out,) = onnx_runner(_onnx_file(tmp_path / "m.onnx"), [a, b], threads=1)()
    torch.testing.assert_close(torch.from_numpy(out), a - b)
    assert seen == [1]


def test_onnx_files_that_do_not_run_say_why(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(InfrastructureError, match=r"refused bad\.onnx"):
        onnx_runner(tmp_path / "bad.onnx", [], threads=1)
    with pytest.raises(UsageError, match="takes 2 inputs, 1 were given"):
        onnx_runner(_onnx_file(tmp_path / "m.onnx"), [torch.rand(1, 3)], threads=1)


def _typed_file(path: Path, kind: int, size: int | str) -> Path:
    values = [helper.make_tensor_value_info(name, kind, [1, size]) for name in ("a", "out")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "a"], ["out"])], "twice", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize("runner", [onnx_runner, openvino_runner])
def test_inputs_that_a_file_does_not_take_are_refused_before_any_timing(
    runner: Callable[..., runtimes.Runner], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if runner is openvino_runner:
        pytest.importorskip("openvino", reason="OpenVINO is optional")
    fixed = _typed_file(tmp_path / "fixed.onnx", TensorProto.FLOAT, 3)
    # Models are written to ONNX in float32, whatever their own type is.
    runner(fixed, [torch.ones(1, 3, dtype=torch.bfloat16)], threads=1)
    half = _typed_file(tmp_path / "half.onnx", TensorProto.BFLOAT16, 3)
    with pytest.raises(InfrastructureError) as caught:
        runner(half, [torch.ones(1, 3, dtype=torch.bfloat16)], threads=1)
    assert caught.value.code == "runtime_unavailable"
    if runner is onnx_runner:
        with pytest.raises(UsageError, match=r"fixed\.onnx does not take inputs of 1x5 float32: .*Expected: 3"):
            runner(fixed, [torch.rand(1, 5)], threads=1)
        whole = _typed_file(tmp_path / "whole.onnx", TensorProto.INT64, "n")
        with pytest.raises(UsageError, match="does not take inputs of 1x3 float32") as refused:
            runner(whole, [torch.rand(1, 3)], threads=1)
        assert refused.value.code == "data_shape"
    assert capfd.readouterr() == ("", "")


def _fail_within(threads: int) -> None:
    with torch_threads(threads):
        assert torch.get_num_threads() == threads
        raise RuntimeError("stop")


def test_openvino_gets_its_inputs_in_order_and_says_what_fails(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is optional")
    a, b = torch.rand(2, 3), torch.rand(2, 3)
    path = _onnx_file(tmp_path / "m.onnx")
    (out,) = openvino_runner(path, [a, b], threads=1)().values()
    torch.testing.assert_close(torch.from_numpy(out.copy()), a - b)
    with pytest.raises(UsageError, match="takes 2 inputs, 1 were given"):
        openvino_runner(path, [a], threads=1)
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(InfrastructureError, match=r"OpenVINO refused broken\.onnx"):
        openvino_runner(tmp_path / "broken.onnx", [a], threads=1)


def test_a_missing_openvino_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    reason = available_runtimes()["openvino"]
    assert reason is not None
    assert "not installed" in reason
    with pytest.raises(InfrastructureError) as caught:
        openvino_runner(tmp_path / "m.onnx", [torch.rand(1)], threads=1)
    assert caught.value.code == "runtime_unavailable"


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stop"):
        _fail_within(before + 1)
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match="at least 1"):
        _fail_within(0)


def test_every_runtime_is_listed() -> None:
    assert tuple(available_runtimes()) == RUNTIMES == runtimes.RUNTIMES


def test_the_profile_describes_this_machine() -> None:
    profile = device_profile(threads=1)
    assert profile.cpu
    assert profile.threads == 1
    assert profile.cores == usable_cores() >= 1
    assert profile.versions["torch"] == torch.__version__
    assert profile.memory_gib > 0
