import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _load(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    """The networks of nets.py."""
    return _load(Path(__file__).parent / "nets.py")


@pytest.fixture(scope="session")
def demosaicker() -> ModuleType:
    """The example network with dense 3x3 convolutions."""
    return _load(Path(__file__).parents[2] / "examples" / "demosaicker.py")
