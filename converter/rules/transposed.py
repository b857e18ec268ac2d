"""Transposed convolutions are kept: they scatter their input, which is not the pattern of a shift."""

from __future__ import annotations

from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.rules.common import Reason


def claims(site: ConvSite) -> bool:
    """Any transposed convolution."""
    return site.transposed


def match(site: ConvSite) -> int | Reason:
    """The reason why the site is kept."""
    return "transposed", "A transposed convolution spreads its input; only gathering convolutions are rewritten."
