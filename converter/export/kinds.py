"""The kinds of artifact: their files, who must be able to load them, and how exactly they must agree."""

from __future__ import annotations

from dataclasses import dataclass

PLAIN = "plain"
"""Reloaded where aslconvert cannot be imported."""

WITH_PACKAGE = "aslconvert"
"""Reloaded where aslconvert's operators are registered."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """``tolerance`` is relative to the largest output; ``processes`` are the fresh processes it is reloaded in."""

    name: str
    file: str
    tolerance: float
    processes: tuple[str, ...] = (PLAIN,)
    default: bool = True
    summary: str = ""


KINDS = {
    kind.name: kind
    for kind in (
        # float32 sums in another order: six times what 23 networks showed at most.
        Kind(name="portable", file="portable.pt2", tolerance=5e-5, summary="standard operators, plain torch loads it"),
        Kind(name="fast", file="fast.pt2", tolerance=5e-5, processes=(WITH_PACKAGE,), summary="on the fused operator"),
        # What rounding costs is a finding, on top. Without a 16-bit kernel the same weights run in float32.
        Kind(
            name="int16",
            file="fast.int16.pt2",
            tolerance=1e-3,
            processes=(WITH_PACKAGE,),
            summary="on the fused operator in 16-bit integers",
        ),
        Kind(
            name="trainable",
            file="trainable.pt2",
            tolerance=5e-5,
            processes=(WITH_PACKAGE,),
            summary="weights, biases and shifts that train on",
        ),
        # The reordered and fused sums of another library come on top.
        Kind(name="onnx", file="model.onnx", tolerance=2e-4, summary="ONNX, opset 20"),
        # On top of what was measured when it was written: rounding may fall the other way on another machine.
        Kind(name="int8", file="model.int8.onnx", tolerance=2e-2, default=False, summary="ONNX, quantised to 8 bits"),
        Kind(name="weights", file="weights.safetensors", tolerance=0.0, summary="the weights by the original's names"),
        Kind(
            name="code",
            file="model.py",
            tolerance=5e-5,
            processes=(PLAIN, WITH_PACKAGE),
            summary="readable PyTorch that loads the weights",
        ),
        Kind(name="aoti", file="model.aoti.pt2", tolerance=2e-4, default=False, summary="compiled by AOTInductor"),
    )
}
"""In the order in which they are written and reported."""

NEEDS = {"code": ("weights",)}
"""What cannot be used without another one."""


def complete(names: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds in ``names`` and those they need, in the table's order. Raises KeyError for an unknown one."""
    wanted = {KINDS[name].name for name in names} | {other for name in names for other in NEEDS.get(name, ())}
    return tuple(name for name in KINDS if name in wanted)
