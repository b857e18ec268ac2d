"""Grouped convolution -> K shifted rows and a 1x1 convolution, dense or in the same groups.

Pattern: ``conv{1,2,3}d(x, W[C_out, C / g, *kernel], b, groups=g)`` with 1 < g < C.
Algebra: group i of the outputs is a dense convolution of group i of the channels. Its rows mixed by a block-diagonal
1x1 are that; a 1x1 with g groups, whose rows come group after group, is the same with the zeros left out.
"""

from __future__ import annotations

from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.rules.common import Reason, plain_reason

DENSE_UP_TO = 4
"""Groups up to which the rows are mixed densely. It multiplies more, but runs in the fused kernel: with 64 channels in
2 groups at 56x56 it took 0.5 ms and the library's grouped 1x1 0.8; from about 4 groups on the latter was faster."""


def claims(site: ConvSite) -> bool:
    """Several groups of more than one channel, gathering."""
    return not site.transposed and 1 < site.groups < site.in_channels


def match(site: ConvSite) -> int | Reason:
    """The groups that the rows are mixed in, or the reason why the site is kept."""
    return plain_reason(site) or row_groups(site)


def row_groups(site: ConvSite) -> int:
    """The groups of the 1x1 convolution: none where a dense one is faster."""
    return 1 if site.groups <= DENSE_UP_TO else site.groups
