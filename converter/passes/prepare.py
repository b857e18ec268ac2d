"""The passes that every model takes before its sites are sought: they change how it is written, not what it is."""

from __future__ import annotations

from torch import fx

from aslconvert.converter.passes.inline_blocks import inline_blocks
from aslconvert.converter.passes.store_weights import store_weights


def prepare(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` without no_grad and autocast blocks and without parametrisations.

    ``notes_of`` tells what was done.
    """
    return store_weights(inline_blocks(gm))
