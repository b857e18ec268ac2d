"""A small export that hostile files are made from; and the modules of this folder, which its scripts import too."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aslconvert.converter.ir.quiet import quiet

sys.path.insert(0, str(Path(__file__).parent))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image).mean(dim=(2, 3))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    with quiet():
        program = torch.export.export(Tiny().eval(), (torch.rand(2, 3, 5, 5),), dynamic_shapes=({0: batch},))
        torch.export.save(program, path)
    return path
