"""docs/reasons.md explains every reason code, and only those that exist."""

import re
from pathlib import Path

import pytest

from aslconvert.converter.inspection import KEPT_BY_USER
from aslconvert.converter.ir.reasons import KEPT
from aslconvert.converter.ir.site import Refusal
from aslconvert.converter.pipeline.record import DOES_NOT_PAY
from aslconvert.converter.search.costs import NO_GAIN

ROOT = Path(__file__).parents[2]


def test_the_page_explains_every_code_and_no_other() -> None:
    page = (ROOT / "docs" / "reasons.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("### ")]
    explained = [code for heading in headings for code in re.findall(r"`(\w+)`", heading)]
    assert sorted(explained) == sorted(KEPT)
    assert {KEPT_BY_USER, DOES_NOT_PAY, NO_GAIN} <= KEPT
    for rule in re.findall(r"`(rules/\w+\.py)`", page):
        assert (ROOT / "converter" / rule).is_file()


def test_an_unknown_code_is_a_defect() -> None:
    with pytest.raises(ValueError, match="no reason to keep 'layer'"):
        Refusal("layer", "conv2d", "because", "So.")
