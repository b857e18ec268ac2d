from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aslconvert.converter.cost.counts import count
from aslconvert.kernels import active_shift, shift_pointwise


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 6, 6), 2 * 36 * 8 * 27),
        (nn.Conv2d(8, 8, 3, stride=2, groups=4), (1, 8, 7, 7), 9 * 8 * 2 * 9),
        (nn.Conv1d(4, 6, 5, dilation=2), (1, 4, 20), 12 * 6 * 20),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 27 * 3 * 16),
        (nn.ConvTranspose2d(6, 3, 2, stride=2, groups=3), (1, 6, 5, 5), 25 * 6 * 4),
        (nn.Linear(12, 7), (5, 12), 5 * 12 * 7),
        (nn.ReLU(), (2, 3), 0),
    ],
)
def test_multiply_adds_follow_the_definition(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    found = count(module.eval(), [torch.zeros(shape)])
    assert found.macs == macs
    assert found.params == sum(p.numel() for p in module.parameters())


class Shifted(nn.Module):
    """K rows over C channels, then C_out outputs, in two ops or fused."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.shift = nn.Parameter(torch.rand(10, 2))
        self.weight = nn.Parameter(torch.rand(5, 10))
        self.register_buffer("source", torch.arange(10) % 4)

    def forward(self, x: Tensor) -> Tensor:
        source = self.get_buffer("source")
        if self.fused:
            return shift_pointwise(x, self.shift, self.weight, source=source, stride=(2, 2), delta=(-1, -1))
        rows = active_shift(x, self.shift, source=source, stride=(2, 2), delta=(-1, -1))
        return torch.nn.functional.conv2d(rows, self.weight[:, :, None, None])


@pytest.mark.parametrize("fused", [False, True])
def test_shifts_and_their_1x1_count_the_same_fused_or_not(fused: bool) -> None:
    found = count(Shifted(fused=fused), [torch.zeros(3, 4, 8, 6)])
    pixels = 3 * 4 * 3
    assert found.macs == pixels * 10 * (4 + 5)
    assert found.params == 10 * 2 + 5 * 10
    assert found.bytes == 4 * 70 + 8 * 10


def test_tied_weights_count_once_in_size_and_twice_in_work() -> None:
    conv = nn.Conv2d(4, 4, 1, bias=False)
    found = count(nn.Sequential(conv, conv), [torch.zeros(1, 4, 3, 3)])
    assert (found.params, found.macs) == (16, 2 * 9 * 16)


@pytest.fixture
def export() -> Callable[[nn.Module, Tensor], torch.export.ExportedProgram]:
    def run(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
        return torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))

    return run


def test_a_program_counts_like_its_module(
    export: Callable[[nn.Module, Tensor], torch.export.ExportedProgram],
) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)).eval()
    program = export(net, torch.zeros(2, 3, 6, 6))
    for batch in (1, 5):
        x = torch.zeros(batch, 3, 6, 6)
        assert count(program, [x]) == count(net, [x])
        assert count(net, [x]).macs == batch * (16 * 4 * 27 + 64 * 2)
