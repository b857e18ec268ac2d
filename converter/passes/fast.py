"""The forms that run fastest in torch with aslconvert's kernels: which of them does, is for measurement to say."""

from __future__ import annotations

from torch import fx

from aslconvert.converter.passes.channels_last import channels_last
from aslconvert.converter.passes.fuse import fuse
from aslconvert.converter.passes.mix_as_shift import mix_as_shift, mix_stride_one
from aslconvert.converter.passes.pool_as_maxima import pool_as_maxima
from aslconvert.converter.passes.sixteen_bits import sixteen_bits
from aslconvert.converter.passes.sum_shifts import sum_shifts


def fast_form(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` (as ``replace_sites`` gives it) on the fused op; depthwise blocks as sums, pools as maxima."""
    return pool_as_maxima(sum_shifts(fuse(gm)))


def int16_form(gm: fx.GraphModule) -> fx.GraphModule:
    """The fast form in integers of 16 bits, plain 1x1 convolutions included. It rounds: see ``sixteen_bits``.

    Where no kernel does it, it computes in float32.
    """
    return sixteen_bits(fast_form(mix_stride_one(gm)))


def packed_form(gm: fx.GraphModule) -> fx.GraphModule:
    """The same in channels_last with packed weights; plain 1x1 convolutions are on the fused op as well.

    torch's own max pooling is quick in this layout.
    """
    return channels_last(sum_shifts(fuse(mix_as_shift(gm))))
