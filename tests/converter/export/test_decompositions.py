"""A program of translated operators is exported without being traced anew, to the same file."""

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from aslconvert.converter.export import decompositions, onnx
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import export_model


class Sum(nn.Module):
    """Selected channels are added to a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.register_buffer("source", torch.tensor([1, 0, 0, 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + x.index_select(1, self.source))


CONVOLUTIONS = (nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3))


@pytest.mark.parametrize(
    ("layers", "dynamic", "plain"),
    [
        (CONVOLUTIONS, False, True),
        (CONVOLUTIONS, True, False),
        ((Sum(),), False, True),
        ((nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), False, False),
        ((nn.Conv2d(2, 3, 3), nn.Flatten(0)), False, False),
    ],
)
def test_the_file_is_the_same_as_torch_makes_it(
    layers: tuple[nn.Module, ...], dynamic: bool, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 2, 6, 6)
    program = export_model(nn.Sequential(*layers).eval(), (x,))
    if not dynamic:
        program = reexport(graph_module(program), (x,))
    found, real = [], decompositions.is_plain

    def watched(*given: Any) -> bool:
        found.append(real(*given))
        return found[-1]

    monkeypatch.setattr(decompositions, "is_plain", watched)
    before = str(program.graph)
    spared = onnx.onnx_bytes(program)
    assert str(program.graph) == before
    monkeypatch.setattr(onnx, "spared_decompositions", contextlib.nullcontext)
    assert onnx.onnx_bytes(program) == spared
    assert found == [plain]


def test_a_torch_that_has_no_such_function_exports_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompositions, "NAME", "no_such_function")
    with decompositions.spared_decompositions():
        program = export_model(nn.Conv2d(2, 3, 3), (torch.randn(2, 2, 6, 6),))
        assert onnx.onnx_bytes(program)
