"""Dense 2-D convolution -> K shifted rows and a 1x1 convolution.

Pattern: ``conv2d(x, W[C_out, C, kh, kw], b)`` with groups = 1 and kh * kw > 1.
Algebra: the convolution is the sum over taps t of ``W[:, :, t] . shift(x, t * dilation - padding)``, that is one 1x1
convolution over C * T integer-shifted rows; any K rows (channel, dy, dx) with real shifts approximate it.
"""

from __future__ import annotations

import torch

from aslconvert.converter.ir.site import ConvSite, Refusal

SUPPORTED_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def match(site: ConvSite) -> Refusal | None:
    """None when the rule applies, else the reason why it does not."""
    reason = _reason(site)
    return None if reason is None else Refusal(site.name, site.node, *reason)


def _reason(site: ConvSite) -> tuple[str, str] | None:
    if site.transposed:
        return "transposed", "A transposed convolution spreads its input; only gathering convolutions are rewritten."
    spatial = len(site.geometry.kernel)
    if spatial != 2:
        return f"conv{spatial}d", f"A {spatial}-D convolution; only 2-D ones are rewritten."
    if site.geometry.taps == 1:
        return "pointwise", "Already a 1x1 convolution."
    if site.groups > 1 and site.groups == site.in_channels:
        return "depthwise", "A depthwise convolution is already cheap: one kernel per channel."
    if site.groups > 1:
        return "grouped", f"A convolution in {site.groups} groups; only dense ones are rewritten."
    if site.dtype not in SUPPORTED_DTYPES:
        return "dtype", f"Its weights are {site.dtype}; float32, float64 and bfloat16 are rewritten."
    return None
