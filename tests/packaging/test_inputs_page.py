"""The page on inputs names every operator and every refusal of the ONNX importer."""

import re
from pathlib import Path

import aslconvert.converter.importers.onnx.load  # noqa: F401  registers the operators
from aslconvert.converter.importers.architectures.entry_points import GROUP
from aslconvert.converter.importers.onnx.registry import known_operators

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "inputs.md").read_text()


def test_the_page_lists_the_operators_that_are_read() -> None:
    listed = PAGE.split("Operators:\n\n")[1].split("\n\n")[0]
    assert re.split(r",\s+", listed.rstrip(".\n")) == known_operators()


def test_the_page_explains_every_code_of_the_importer() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "converter" / "importers" / "onnx").glob("*.py"))
    codes = set(re.findall(r'ModelRefused\(\s*"([a-z_]+)"', sources)) - {"not_found", "no_example"}
    assert len(codes) > 8
    assert codes <= set(re.findall(r"`([a-z_]+)`", PAGE))
    assert GROUP in PAGE
