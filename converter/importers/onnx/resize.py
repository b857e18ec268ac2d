"""Resizing of images by nearest neighbour, linear and cubic interpolation, in ONNX's coordinate systems."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aslconvert.converter.importers.onnx.call import Call, axis_of
from aslconvert.converter.importers.onnx.refusals import bad_graph
from aslconvert.converter.importers.onnx.registry import operator
from aslconvert.converter.importers.onnx.values import check_scale, is_known

aten = torch.ops.aten

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
ATTRIBUTES = (
    "antialias axes coordinate_transformation_mode cubic_coeff_a exclude_outside extrapolation_value "
    "keep_aspect_ratio_policy mode nearest_mode"
)
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@operator("Resize", attributes=ATTRIBUTES)
def resize(call: Call) -> Tensor:
    """Only spatial axes are resized; ``axes`` and unit scales elsewhere are understood."""
    call.require("antialias", 0)
    call.require("keep_aspect_ratio_policy", "stretch")
    mode = call.require("mode", "nearest", "nearest", "linear", "cubic")
    coordinates = call.require("coordinate_transformation_mode", "half_pixel", *COORDINATES)
    x = call.tensor(0)
    sizes, scales, scaled = _targets(call, x)
    changed = [axis for axis in range(x.dim()) if not _same(sizes[axis], x.shape[axis]) or not _same(scales[axis], 1.0)]
    if not changed:
        return x
    if mode == "nearest":
        rounding = call.require("nearest_mode", "round_prefer_floor", *ROUNDING)
        if x.dim() == 4 and changed[0] >= 2 and _repeats(scales[2:], rounding, coordinates):
            return F.interpolate(x, scale_factor=scales[2:], mode="nearest")
        for axis in changed:
            x = _nearest(x, axis, sizes[axis], scales[axis], coordinates, rounding)
        return x
    if changed[0] < 2:
        raise call.unsupported(f"interpolation along axis {changed[0]}")
    spatial = x.dim() - 2
    if mode == "linear" and (coordinates == "asymmetric" or _single(coordinates, sizes[2:])):
        for axis in changed:
            x = _linear(x, axis, sizes[axis], scales[axis], coordinates)
        return x
    if mode == "cubic":
        if spatial != 2 or call.attribute("cubic_coeff_a", -0.75) != -0.75 or coordinates == "asymmetric":
            raise call.unsupported("this kind of cubic interpolation")
        if _single(coordinates, sizes[2:]):
            raise call.unsupported("cubic interpolation to a single pixel in pytorch_half_pixel")
        call.require("exclude_outside", 0)
    aligned = coordinates == "align_corners"
    name = LINEAR[spatial] if mode == "linear" else "bicubic"
    # Given scales enter the coordinates as they are, even where they do not hit a whole size.
    if aligned or not scaled or not all(isinstance(scale, float) for scale in scales):
        return F.interpolate(x, size=sizes[2:], mode=name, align_corners=aligned)
    if all(not is_known(n) or math.floor(n * s) == size for n, s, size in zip(x.shape, scales, sizes, strict=True)):
        return F.interpolate(x, scale_factor=scales[2:], mode=name, align_corners=False)
    # torch multiplies in double precision and would miss a pixel.
    both = {"linear": aten.upsample_linear1d, "bilinear": aten.upsample_bilinear2d}
    both |= {"trilinear": aten.upsample_trilinear3d, "bicubic": aten.upsample_bicubic2d}
    y: Tensor = both[name](x, sizes[2:], False, *scales[2:])
    return y


def _targets(call: Call, x: Tensor) -> tuple[list[Any], list[Any], bool]:
    """Output size and scale of every axis, from whichever of the two is given, and whether it is the scales."""
    axes = call.node.attributes.get("axes")
    places = list(range(x.dim())) if axes is None else [axis_of(call, axis, x.dim()) for axis in axes]
    sizes: list[Any] = list(x.shape)
    scales: list[Any] = [1.0] * x.dim()
    # Old exporters leave an empty tensor of scales beside sizes.
    given_scales = call.host(2).items.reshape(-1).tolist() if call.has(2) else []
    given_sizes = call.ints(3) if call.has(3) else []
    given = given_sizes or given_scales
    if bool(given_scales) == bool(given_sizes) or len(given) != len(places):
        raise bad_graph(call.node.where, f"{len(given_scales)} scales, {len(given_sizes)} sizes, {len(places)} axes.")
    for axis, number in zip(places, given, strict=True):
        if isinstance(number, (int, float)) and number <= 0:
            raise bad_graph(call.node.where, f"a size or scale of {number}.")
        size = x.shape[axis]
        if given_sizes:
            sizes[axis] = number
            scales[axis] = 1.0 if _same(number, size) else number / size
        else:
            sizes[axis] = size if _same(number, 1.0) else _scaled(size, number)
            scales[axis] = number
    return sizes, scales, bool(given_scales)


def _scaled(size: Any, scale: Any) -> Any:
    """The size after scaling; ONNX Runtime multiplies in single precision and rounds down."""
    if not isinstance(scale, float):
        return math.floor(size * scale)
    if is_known(size):
        return int(np.float32(size) * np.float32(scale))
    check_scale(scale)
    if scale == int(scale):
        return size * int(scale)
    return size // int(1 / scale) if 1 / scale == int(1 / scale) else math.floor(size * scale)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, (int, float)) and isinstance(second, (int, float)):
        return first == second
    return first is second or str(first) == str(second)


def _single(coordinates: str, sizes: list[Any]) -> bool:
    """Whether pytorch_half_pixel's rule for a single output pixel applies: it takes the first input pixel."""
    return coordinates == "pytorch_half_pixel" and any(isinstance(size, int) and size == 1 for size in sizes)


def _positions(size: Any, length: Any, scale: Any, coordinates: str) -> Tensor:
    """Where in the input (``length`` pixels) each of the ``size`` output pixels lies."""
    steps: Tensor = torch.arange(size, dtype=torch.float32)
    if coordinates == "asymmetric":
        return torch.div(steps, scale)
    if coordinates == "align_corners":
        return steps * ((length - 1) / (size - 1)) if not _same(size, 1) else steps * 0
    if coordinates == "pytorch_half_pixel" and _same(size, 1):
        return steps * 0
    return torch.div(steps + 0.5, scale) - 0.5


def _repeats(scales: list[Any], rounding: str, coordinates: str) -> bool:
    """Whether every pixel is just repeated, as the plain operator does, which also keeps sizes dynamic."""
    whole = all(isinstance(scale, float) and scale == int(scale) for scale in scales)
    plain = rounding == "floor" if coordinates == "asymmetric" else rounding.startswith("round")
    return whole and plain and coordinates != "align_corners"


def _nearest(x: Tensor, axis: int, size: Any, scale: Any, coordinates: str, rounding: str) -> Tensor:
    places = _positions(size, x.shape[axis], scale, coordinates)
    roundings: dict[str, Callable[[Tensor], Tensor]] = {
        "round_prefer_floor": lambda p: torch.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: torch.floor(p + 0.5),
        "floor": torch.floor,
        "ceil": torch.ceil,
    }
    return x.index_select(axis, roundings[rounding](places).long().clamp(min=0, max=x.shape[axis] - 1))


def _linear(x: Tensor, axis: int, size: Any, scale: Any, coordinates: str) -> Tensor:
    last = x.shape[axis] - 1
    places = _positions(size, x.shape[axis], scale, coordinates).clamp(min=0, max=last)
    first = torch.floor(places).long()
    share = (places - first).to(x.dtype).reshape([-1] + [1] * (x.dim() - axis - 1))
    return torch.lerp(x.index_select(axis, first), x.index_select(axis, (first + 1).clamp(max=last)), share)
