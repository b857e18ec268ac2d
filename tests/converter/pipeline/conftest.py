import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aslconvert.converter.pipeline import pruned, variants

sys.path.append(str(Path(__file__).parent))

from quick_measurements import quicken


# For one module at a time: the environment is everybody's, and other tests need the compiler.
@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Fewer and shorter samples of each latency, short healing, and no compiler."""
    # It reads the compiler's name once, when it is imported, and must not do so while the name is wrong.
    importlib.import_module("torch._inductor.config")
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr, patch.setitem)
        patch.setattr(pruned, "TRIALS", 1)
        patch.setattr(variants, "LEAST_HEALING", 0.2)
        patch.setenv("CXX", "no-such-compiler")
        yield


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``net.pt2``, which is worth converting, and ``data.npz``, smooth images without labels."""
    folder = tmp_path_factory.mktemp("workshop")
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(48, 3, 1)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (torch.zeros(2, 3, 48, 48),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    noise = torch.randn(60, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    images = nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    np.savez(folder / "data.npz", input=images.numpy())
    return folder
