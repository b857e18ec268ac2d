"""The table of translations is built once a process, and what is exported with the kept one is the same file."""

import contextlib
import importlib
from typing import Any

import pytest
import torch
from torch import nn

from aslconvert.converter.export import onnx
from aslconvert.converter.export.translations import MODULE, kept_translations
from aslconvert.converter.ir.load import export_model


@pytest.fixture
def registry() -> Any:
    return importlib.import_module(MODULE).ONNXRegistry


def test_the_file_is_the_same_as_without_the_kept_table(monkeypatch: pytest.MonkeyPatch) -> None:
    program = export_model(nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU()), (torch.randn(2, 2, 6, 6),))
    kept = [onnx.onnx_bytes(program) for _ in range(2)]
    monkeypatch.setattr(onnx, "kept_translations", contextlib.nullcontext)
    assert kept == [onnx.onnx_bytes(program)] * 2


def test_the_table_is_built_once_and_nobody_gets_the_kept_one(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own, built = vars(registry)["from_torchlib"], []

    def build(cls: Any, **kwargs: Any) -> Any:
        built.append(kwargs)
        return own.__func__(cls, **kwargs)

    counted = classmethod(build)
    monkeypatch.setattr(registry, "from_torchlib", counted)
    for _ in range(2):
        with kept_translations():
            one, other = (registry().from_torchlib(opset_version=20) for _ in range(2))
            assert registry.from_torchlib(opset_version=18).opset_version == 18
        assert vars(registry)["from_torchlib"] is counted
    assert built == [{"opset_version": 20}, {"opset_version": 18}]
    name = next(iter(one.functions))
    one.functions.pop(name).clear()
    assert other.functions[name]
    with kept_translations():
        assert registry.from_torchlib(opset_version=20).functions[name]


def test_a_torch_that_has_no_such_table_exports_as_it_does(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = staticmethod(lambda **_: "another way")
    monkeypatch.setattr(registry, "from_torchlib", other)
    with kept_translations():
        assert registry.from_torchlib() == "another way"
    assert vars(registry)["from_torchlib"] is other
