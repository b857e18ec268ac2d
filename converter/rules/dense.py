"""Dense convolution -> K shifted rows and a 1x1 convolution.

Pattern: ``conv{1,2,3}d(x, W[C_out, C, *kernel], b)`` with groups = 1 and more than one tap.
Algebra: the convolution is the sum over taps t of ``W[:, :, t] . shift(x, t * dilation - padding)``, that is one 1x1
convolution over C * T integer-shifted rows; any K rows (channel, offsets) with real shifts approximate it.
"""

from __future__ import annotations

from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.rules.common import Reason, plain_reason


def claims(site: ConvSite) -> bool:
    """The rule of last resort: what no other rule took is dense."""
    return not site.transposed


def match(site: ConvSite) -> int | Reason:
    """1, as the rows are mixed without groups, or the reason why the site is kept."""
    return plain_reason(site) or 1
