"""Which convolutions the methods replace."""

from __future__ import annotations

from collections.abc import Sequence

from aslconvert.converter.ir.site import ConvSite

LEAST_CHANNELS = 8
"""Convolutions that read fewer channels cost little, and lose most: no method touches them."""


def spatial_sites(sites: Sequence[ConvSite]) -> list[ConvSite]:
    """The dense 3x3 convolutions among ``sites`` that read enough channels: those that the methods replace."""
    return [
        site
        for site in sites
        if site.op == "conv2d"
        and site.groups == 1
        and site.geometry.kernel == (3, 3)
        and set(site.geometry.dilation) == {1}
        and site.geometry.padding_before == site.geometry.padding_after
        and site.in_channels >= LEAST_CHANNELS
    ]
