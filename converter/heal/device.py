"""Healing on a GPU of a graph that was built on the CPU and goes back there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx

from aslconvert.converter.errors import UsageError
from aslconvert.converter.ir.graph import attribute
from aslconvert.kernels import build_info


def healing_device(wanted: str) -> torch.device:
    """``wanted``: "cpu", "cuda", or "auto", which is the GPU where torch and the kernels can use one.

    Raises:
        UsageError: ``device``, when a GPU is asked for and cannot be used.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    missing = None
    if not torch.cuda.is_available():
        missing = "torch sees no GPU here"
    elif build_info().get("cuda", "none") == "none":
        missing = "the kernels were built without CUDA"
    if missing is None:
        return torch.device("cuda")
    if wanted == "cuda":
        raise UsageError("device", f"Healing cannot run on a GPU: {missing}.", hint="--device cpu; see doctor.")
    return torch.device("cpu")


@contextmanager
def placed(gm: fx.GraphModule, device: torch.device) -> Iterator[None]:
    """``gm``, its constants and the tensors that it makes are on ``device`` inside, and on the CPU again afterwards.

    A GPU's float32 products are taken in TF32 meanwhile: bfloat16 is too coarse for the last of the distance.
    """
    if device.type == "cpu":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    _move(gm, device)
    try:
        yield
    finally:
        _move(gm, torch.device("cpu"))
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _move(gm: fx.GraphModule, device: torch.device) -> None:
    gm.to(device)
    for module in gm.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        for node in module.graph.nodes:
            if node.op == "get_attr":
                # Constants that are neither parameters nor buffers stay behind otherwise.
                value = attribute(module, node.target)
                if isinstance(value, Tensor) and value.device.type != device.type:
                    owner, _, name = str(node.target).rpartition(".")
                    setattr(module.get_submodule(owner), name, value.to(device))
            elif node.kwargs.get("device") is not None:
                node.kwargs = {**node.kwargs, "device": device}
        module.recompile()
