"""tensorly, which only this comparison needs."""

from __future__ import annotations

import importlib
from types import ModuleType

from aslconvert.converter.errors import InfrastructureError


def need_tensorly() -> ModuleType:
    """The package, with its decompositions.

    Raises:
        InfrastructureError: ``packages_missing``.
    """
    try:
        importlib.import_module("tensorly.decomposition")
        return importlib.import_module("tensorly")
    except ModuleNotFoundError as error:
        raise InfrastructureError(
            "packages_missing", f"The package {error.name} is not installed.", hint="`make bench-peers` installs it."
        ) from error
