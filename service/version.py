"""The version of the package."""

from __future__ import annotations

from importlib import metadata

try:
    VERSION = metadata.version("aslconvert")
except metadata.PackageNotFoundError:
    VERSION = "0"
