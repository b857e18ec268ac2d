"""Prints what an image (`api` or `worker`) needs besides torch, one requirement a line, as pyproject.toml says it."""

import pathlib
import re
import sys
import tomllib

PROJECT = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
EXTRAS = ("celery", "postgres", "s3", "client", "otel")
API_TOO = ("numpy", "onnx", "pillow", "pydantic", "rich", "typer")
"""Of the package's own needs: what the command line and the vetting of uploads read. The engine's are the worker's."""


def name_of(requirement: str) -> str:
    """The distribution that a requirement names."""
    return re.split(r"[\[<>=!~;\s]", requirement, maxsplit=1)[0].lower()


def of_extra(extra: str) -> list[str]:
    """The requirements of an extra, and of the extras of ours that it names."""
    found = []
    for requirement in PROJECT["optional-dependencies"][extra]:
        inner = re.fullmatch(r"aslconvert\[(.+)\]", requirement)
        found += [one for name in inner[1].split(",") for one in of_extra(name)] if inner else [requirement]
    return found


def needed(image: str) -> list[str]:
    """All of an image's requirements, torch aside, which is installed by itself."""
    own = [one for one in PROJECT["dependencies"] if name_of(one) != "torch"]
    if image == "api":
        own = [one for one in own if name_of(one) in API_TOO]
    else:
        own += of_extra("prune")
    return sorted({*own, *(one for extra in EXTRAS for one in of_extra(extra))})


if __name__ == "__main__":
    print("\n".join(needed(sys.argv[1])))
