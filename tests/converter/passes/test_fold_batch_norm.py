from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.ir.graph import aten, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]


def _norms(gm: fx.GraphModule) -> int:
    return sum(node.target is aten.batch_norm.default for node in gm.graph.nodes)


class Loop(nn.Module):
    """One convolution called twice, each time under a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)])

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = norm(self.conv(x))
        return x


class Shared(nn.Module):
    """The convolution's output is read twice, so its batch norm has to stay; so does the one without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1)
        self.without = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.without(self.second(self.norm(y) + y))


@pytest.mark.parametrize(
    ("make", "shape", "left"),
    [
        (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), (2, 4, 8, 8), 0),
        (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 8, 8), 0),
        (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, padding="same"), nn.BatchNorm1d(6)), (2, 4, 8), 0),
        (lambda: nn.Sequential(nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6)), (2, 4, 5, 5, 5), 0),
        (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.BatchNorm2d(6)), (2, 4, 5, 5), 0),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 4), 0),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5)), (3, 5, 4), 1),
        (Loop, (2, 4, 8, 8), 0),
        (Shared, (2, 4, 8, 8), 2),
    ],
)
def test_folding_keeps_the_function(
    nets: object,
    difference: Callable[[Tensor, Tensor], float],
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    left: int,
) -> None:
    torch.manual_seed(0)
    model = nets.randomise(make())  # type: ignore[attr-defined]
    gm = graph_module(export_model(model, (torch.randn(shape),)))
    before = {name: value.clone() for name, value in gm.state_dict().items()}
    folded = fold_batch_norm(gm)
    x = torch.randn(shape)
    with torch.no_grad():
        assert difference(folded(x), model(x)) <= 1e-6
    assert _norms(folded) == left
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())


def test_the_norms_of_whole_networks_go_with_their_parameters(exported: Exported) -> None:
    folded = fold_batch_norm(graph_module(exported("resnet18")[1]))
    assert _norms(folded) == 0
    assert not [name for name in folded.state_dict() if "bn" in name or "running" in name]
    assert folded.state_dict()["layer1.0.conv1.bias"].shape == (8,)
