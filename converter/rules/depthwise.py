"""Depthwise convolution -> one to three shifts a channel, weighted and added.

Pattern: ``conv{1,2,3}d(x, W[C_out, 1, *kernel], b, groups=C)`` with C > 1.
Algebra: ``y_c = sum_j w_cj . shift(x_c, s_cj) + b_c``; with all T taps as shifts it is the convolution itself. As rows
it is a 1x1 convolution in C groups; the fast form adds up weighted shifts, and the lowered form is one depthwise
convolution over the window that the shifts span.
"""

from __future__ import annotations

from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.rules.common import Reason, plain_reason


def claims(site: ConvSite) -> bool:
    """A kernel of its own for every channel."""
    return not site.transposed and site.groups == site.in_channels > 1


def match(site: ConvSite) -> int | Reason:
    """The number of channels, as each mixes its own rows, or the reason why the site is kept."""
    return plain_reason(site) or site.in_channels
