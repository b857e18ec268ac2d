"""How many threads torch uses, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aslconvert.converter.errors import UsageError


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use ``threads`` threads within, and give back the former number after."""
    if threads < 1:
        raise UsageError("threads", f"threads must be at least 1, got {threads}.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
