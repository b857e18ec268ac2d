"""Transposed convolution -> K shifted rows, a 1x1 convolution to all phases, and the phases side by side.

Pattern: ``conv_transpose{1,2,3}d(x, W[C, C_out / g, *kernel], b, stride=s)``, some output of which reads more than one
pixel. Algebra: the outputs at positions ``q s + r`` of one phase r are a gathering convolution of their own, with the
taps that reach them (``ir.site.gathering``); all s^D phases read the same rows, so one 1x1 convolution with C_out s^D
outputs gives them, and a pixel shuffle puts them in place.
"""

from __future__ import annotations

from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.rules.common import Reason, plain_reason
from aslconvert.converter.rules.grouped import row_groups


def claims(site: ConvSite) -> bool:
    """Any transposed convolution."""
    return site.transposed


def match(site: ConvSite) -> int | Reason:
    """The groups that the rows are mixed in, or the reason why the site is kept."""
    return plain_reason(site) or row_groups(site)
