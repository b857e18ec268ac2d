"""The ways a site may be written: kept, or as K shifted rows for a few K up to all its taps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from aslconvert.converter.fit.dictionary import build_dictionary
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.site import ConvSite

ROWS_PER_CHANNEL = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
PROBED_ROWS_PER_CHANNEL = (0.5, 1.0, 2.0, 4.0)
"""Where cost and damage are measured; the others follow from these."""

DEPTHWISE_ROWS_PER_CHANNEL = (1.0, 2.0, 3.0)
"""A depthwise kernel is a few shifts or nothing: each costs another pass over the image."""

IN_ORDER_TIMES = (1, 2, 3, 4)
"""How often forms that read their channels in order may read each."""

ROW_STEP = 16
"""Rows come in whole vectors of the widest instruction set."""


@dataclass(frozen=True)
class Candidate:
    """``rows`` is None for the kept convolution, C * T for the exact form; ``bytes`` and ``macs`` as of ``Size``."""

    rows: int | None
    latency_ms: float
    damage: float
    bytes: float = 0.0
    macs: float = 0.0


def row_grid(site: ConvSite, *, probed: bool = False, in_order: bool = False) -> list[int]:
    """Ascending K for a site; the last is C * T, the exact form. ``in_order``: multiples of C only."""
    taps = site.exact_rows
    if in_order and not site.row_groups == site.in_channels > 1:
        whole = [site.in_channels * times for times in IN_ORDER_TIMES]
        return [*(rows for rows in whole if rows < taps), taps]
    if site.row_groups == site.in_channels > 1:
        grid = {round(site.in_channels * share) for share in DEPTHWISE_ROWS_PER_CHANNEL}
        return [*sorted(rows for rows in grid if rows < taps), taps]
    shares = PROBED_ROWS_PER_CHANNEL if probed else ROWS_PER_CHANNEL
    step = ROW_STEP if site.in_channels >= ROW_STEP else 1
    # Every group has equally many rows.
    step = math.lcm(step, site.row_groups) if site.row_groups > 1 else step
    grid = {max(step, round(site.in_channels * share / step) * step) for share in shares}
    return [*sorted(rows for rows in grid if rows < taps), taps]


def stand_in(site: ConvSite, rows: int, *, seed: int = 0) -> Block:
    """A block of the right shape with arbitrary weights, to time a plan before it is fitted.

    Shifts lie between pixels, as healing leaves them; the exact form keeps its whole ones.
    """
    generator = torch.Generator().manual_seed(seed)
    dictionary = build_dictionary(site.gather)
    taps = site.exact_rows
    mixed = min(rows, taps) // site.row_groups
    weight = torch.randn(site.block_outputs, mixed, generator=generator) / mixed**0.5
    bias = torch.zeros(site.block_outputs)
    if rows >= taps:
        source = torch.arange(site.in_channels).repeat_interleave(site.gather.taps)
        shift = site.gather.tap_offsets().repeat(site.in_channels, 1)
        return Block(source=source, shift=shift, weight=weight, bias=bias)
    source = torch.arange(rows) * site.in_channels // rows
    atoms = torch.randint(dictionary.size, (rows,), generator=generator)
    jitter = torch.rand(rows, len(site.phases), generator=generator) * 0.2 - 0.1
    shift = (dictionary.shift[atoms] + jitter).float()
    low, high = dictionary.shift.min(0).values.float(), dictionary.shift.max(0).values.float()
    return Block(source=source, shift=shift.clamp(low, high), weight=weight, bias=bias)
