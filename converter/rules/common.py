"""What every rule asks of a site before its own questions."""

from __future__ import annotations

import torch

from aslconvert.converter.ir.site import ConvSite

SUPPORTED_DTYPES = (torch.float32, torch.float64, torch.bfloat16)

Reason = tuple[str, str]
"""A stable code and a sentence."""


def plain_reason(site: ConvSite) -> Reason | None:
    """Why no rule takes the site, or None."""
    if site.dtype not in SUPPORTED_DTYPES:
        return "dtype", f"Its weights are {site.dtype}; float32, float64 and bfloat16 are rewritten."
    if site.gather.taps == 1:
        return "pointwise", "Every output reads one pixel: there is nothing to shift."
    return None
