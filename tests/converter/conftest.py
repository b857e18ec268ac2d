import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.fit.layerwise import exact_block
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import find_sites
from aslconvert.converter.ir.load import export_model


def _load(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # The random-order plugin seeds Python and NumPy, not torch.
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    """The networks of nets.py."""
    return _load(Path(__file__).parent / "nets.py")


@pytest.fixture(scope="session")
def demosaicker() -> ModuleType:
    """The example network with dense 3x3 convolutions."""
    return _load(Path(__file__).parents[2] / "examples" / "demosaicker.py")


@pytest.fixture(scope="session")
def exported(nets: ModuleType, demosaicker: ModuleType) -> Callable[[str], tuple[nn.Module, ExportedProgram]]:
    """(model, exported program) of a network by name, exported once."""
    made: dict[str, tuple[nn.Module, ExportedProgram]] = {}
    makers: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "demosaicker": (lambda: demosaicker.Demosaicker(depth=15, width=16), (2, 3, 24, 32)),
        "resnet18": (nets.ResNet18, (2, 3, 64, 96)),
        "unet": (nets.UNet, (1, 3, 32, 48)),
        "odd": (nets.Odd, (2, 3, 24, 30)),
    }

    def get(name: str) -> tuple[nn.Module, ExportedProgram]:
        if name not in made:
            torch.manual_seed(0)
            maker, shape = makers[name]
            model = nets.randomise(maker())
            made[name] = (model, export_model(model, (torch.randn(shape),)))
        return made[name]

    return get


def _blocks(gm: fx.GraphModule) -> dict[str, Block]:
    sites, _ = find_sites(gm)
    return {site.name: exact_block(gm, site) for site in sites}


@pytest.fixture(scope="session")
def exact_blocks() -> Callable[[fx.GraphModule], dict[str, Block]]:
    """All taps as rows, for every site."""
    return _blocks


def _random_blocks(gm: fx.GraphModule, *, rows: float = 1.25, seed: int = 0) -> dict[str, Block]:
    generator = torch.Generator().manual_seed(seed)
    sites, _ = find_sites(gm)
    blocks = {}
    for site in sites:
        groups, axes = site.row_groups, len(site.geometry.kernel)
        each, inner = max(1, int(rows * site.in_channels / groups)), site.in_channels // groups
        lowest = -torch.tensor(site.gather.padding_before)
        source = torch.randint(inner, (groups, each), generator=generator) + torch.arange(groups)[:, None] * inner
        blocks[site.name] = Block(
            source=source.flatten(),
            shift=torch.rand(groups * each, axes, generator=generator) * 3 - 0.5 + lowest,
            weight=torch.randn(site.block_outputs, each, generator=generator) / each**0.5,
            bias=torch.randn(site.block_outputs, generator=generator) * 0.1,
        )
    return blocks


@pytest.fixture(scope="session")
def random_blocks() -> Callable[..., dict[str, Block]]:
    """Rows of any channel at fractional shifts, for every site."""
    return _random_blocks


def _difference(given: Any, expected: Tensor) -> float:
    assert given.shape == expected.shape
    return float((given - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="session")
def difference() -> Callable[[Any, Tensor], float]:
    """Largest difference relative to the largest expected value."""
    return _difference
