"""Models that are legal but seldom: the whole conversion takes them."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aslconvert.converter.errors import UsageError
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline import convert, plan_search, planning
from aslconvert.converter.pipeline.style import FUSED_STYLE
from aslconvert.converter.pipeline.subject import open_subject

pytestmark = pytest.mark.long


class Odd(nn.Module):
    """Writes into its input, views its images, and calls one of its convolutions by its function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(24, 24, 3, 3) / 15)
        self.head = nn.Linear(24 * 144, 5)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        x.view(-1).mul_(2.0)
        y = torch.relu(self.first(x))
        y = torch.relu(nn.functional.conv2d(y, self.weight, padding=1))
        y = nn.functional.max_pool2d(y, 2)
        return self.head(y.view(x.shape[0], -1))


def odd(folder: Path, dtype: torch.dtype, batch: int | None) -> Path:
    torch.manual_seed(0)
    model, example = Odd().eval().to(dtype), (torch.rand(batch or 2, 3, 24, 24, dtype=dtype),)
    dynamic = ({0: torch.export.Dim("n")},) if batch is None else None
    path = folder / "odd.pt2"
    torch.export.save(torch.export.export(model, example, dynamic_shapes=dynamic), path)
    np.savez(folder / "data.npz", x=np.random.default_rng(0).random((120, 3, 24, 24), dtype=np.float32))
    return path


def test_inputs_stay_as_they_are() -> None:
    x = torch.rand(2, 3, 24, 24)
    kept, model = x.clone(), Odd().eval()
    gm = graph_module(export_model(model, (x.clone(),)))
    expected = model(x.clone())
    for _ in range(2):
        torch.testing.assert_close(gm(x), expected)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("dtype", "batch"),
    [
        (torch.bfloat16, 10),
        pytest.param(torch.float64, 10, marks=pytest.mark.deep),
        pytest.param(torch.bfloat16, None, marks=pytest.mark.deep),
    ],
    ids=str,
)
def test_the_whole_way(
    quick: None, dtype: torch.dtype, batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small a net is faster as it is; one variant is enough to show the way.
    monkeypatch.setattr(plan_search, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(planning, "LEAST_VARIANTS", 1)
    monkeypatch.setattr(planning, "targets", lambda options, most: [most])
    if dtype == torch.bfloat16:
        # Without sites in files of an ONNX runtime, which float64 is for.
        monkeypatch.setattr(planning, "find_style", lambda *_, **__: FUSED_STYLE)
    path, out = odd(tmp_path, dtype, batch), tmp_path / "out"
    options = ConvertOptions(min_speedup=0.01, budget_seconds=1.0, threads=1, artifacts=("onnx",))
    report = convert(str(path), data=str(tmp_path / "data.npz"), out=out, options=options)
    assert "torch_channels_last" in report.original.latency
    assert "onnxruntime" in report.original.latency
    assert [artifact.reloaded for artifact in report.artifacts if artifact.kind == "onnx"] == [True]
    shifted = [site for site in report.sites if site.action == "asl"]
    assert shifted
    for site in shifted:
        assert len(site.shifts) == site.rows


def test_the_same_weights_in_another_network_are_another_subject(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", input=np.random.default_rng(0).random((80, 1, 8, 8), dtype=np.float32))
    conv = nn.Conv2d(1, 4, 3)
    found = set()
    for name, after in (("relu", nn.ReLU()), ("tanh", nn.Tanh())):
        program = torch.export.export(nn.Sequential(copy.deepcopy(conv), after).eval(), (torch.zeros(1, 1, 8, 8),))
        torch.export.save(program, tmp_path / f"{name}.pt2")
        data = str(tmp_path / "data.npz")
        found.add(open_subject(str(tmp_path / f"{name}.pt2"), data=data, options=ConvertOptions()).fingerprint)
    assert len(found) == 2


def test_a_file_in_the_way_is_told_at_once(workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UsageError, match="is a file") as caught:
            convert(str(workshop / "net.pt2"), data="none.npz", out=out, options=ConvertOptions())
        assert caught.value.code == "out"
