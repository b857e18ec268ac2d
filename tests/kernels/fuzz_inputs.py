"""Describes random calls of the ops as plain data: right ones, and ones with something broken in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

# A tensor is {"shape", "dtype", "layout", "fill", "device", "seed"} and, for indices, "below"; all else is itself.
Spec = dict[str, Any]
Arguments = dict[str, Any]

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded", "overlapping", "offset", "negated")
ODD_LAYOUTS = ("sparse", "grad")
FILLS = ("normal", "zero", "half", "nan", "inf", "-inf", "huge", "tiny", "spread")
INDICES = ("in range", "last", "past", "negative", "far")
DTYPES = ("float16", "int64", "int32", "bool", "uint8", "complex64", "float64", "float32", "bfloat16")
HUGE_SIZES = (2**31 - 1, 2**31, 2**33, 2**40, 2**62)
EXTREMES = (
    0,
    -1,
    -2,
    2,
    3,
    7,
    2**20,
    2**30,
    2**31 - 1,
    2**31,
    2**32 + 1,
    2**62,
    2**63 - 1,
    -(2**31),
    -(2**62),
    -(2**63),
)


def tensor(draw: Random, shape: Sequence[int], dtype: str, *, fill: str = "normal", layout: str = "contiguous") -> Spec:
    """A tensor to be made by the worker."""
    return {
        "shape": list(shape),
        "dtype": dtype,
        "layout": layout,
        "fill": fill,
        "device": "cpu",
        "seed": draw.randint(0, 2**31),
    }


def right_call(draw: Random, names: Sequence[str], dtypes: Sequence[str]) -> Arguments:
    """Arguments with these names that fit each other; empty batches, channels, rows and images are right too.

    Raises:
        KeyError: a name that this file was not taught.
    """
    axes = draw.choice([1, 2, 2, 2, 3])
    dtype = draw.choice(list(dtypes))
    batch, channels = draw.choice([0, 1, 1, 2, 3]), draw.choice([0, 1, 2, 3, 5, 16, 17, 33])
    spatial = [draw.choice([0, 1, 2, 3, 5, 7, 14, 17, 33] if axes < 3 else [1, 2, 3, 6]) for _ in range(axes)]
    stride = [draw.choice([1, 1, 1, 2, 3, 1000]) for _ in range(axes)]
    delta = [draw.choice([-1, -1, -1, 0, 2, -3, 4]) for _ in range(axes)]
    delta = [max(extra, -size) for extra, size in zip(delta, spatial, strict=True)]
    out = [(size + extra) // step + 1 for size, extra, step in zip(spatial, delta, stride, strict=True)]
    identity = channels == 0 or draw.random() < 0.3
    rows = channels if identity else draw.choice([0, 1, 4, 7, 16, 31, 40])
    outputs = draw.choice([0, 1, 4, 16, 17, 40])
    layout = draw.choice([*LAYOUTS[:3], *LAYOUTS])
    made: Arguments = {
        "x": tensor(draw, [batch, channels, *spatial], dtype, layout=layout),
        "shift": tensor(draw, [rows, axes], draw.choice(["float32", dtype]), fill=draw.choice(["normal", "half"])),
        "source": None if identity else {**tensor(draw, [rows], "int64", fill="in range"), "below": channels},
        "stride": stride,
        "delta": delta,
        "grad": tensor(draw, [batch, rows, *out], dtype, layout=draw.choice(LAYOUTS)),
        "need_input": draw.random() < 0.7,
        "need_shift": draw.random() < 0.7,
        "weight": tensor(draw, [outputs, rows], dtype, layout=draw.choice(["contiguous", "transposed", "sliced"])),
        "bias": tensor(draw, [outputs], dtype) if draw.random() < 0.5 else None,
        "relu": draw.random() < 0.5,
        "residual": tensor(draw, [batch, outputs, *out], dtype, layout=layout) if draw.random() < 0.4 else None,
        "packed": tensor(draw, [(outputs + 15) // 16, rows, 16], dtype),
        "out_channels": outputs,
    }
    if "scale" in names:
        # The op in 16-bit integers has weights and types of its own.
        for name in ("x", "bias", "residual"):
            if made[name] is not None:
                made[name] = {**made[name], "dtype": "float32"}
        fill = draw.choice(["normal", "spread", "zero"])
        made["weight"] = tensor(draw, [(outputs + 7) // 8, (rows + 1) // 2, 8, 2], "int16", fill=fill)
        made["scale"] = tensor(draw, [outputs], "float32")
    return {name: made[name] for name in names}


def broken(draw: Random, arguments: Mapping[str, Any]) -> Arguments:
    """The same call with one argument made odd, which may leave it right or not."""
    changed = dict(arguments)
    name = draw.choice(sorted(changed))
    value = changed[name]
    if isinstance(value, dict):
        changed[name] = None if draw.random() < 0.05 else _odd_tensor(draw, value)
    elif isinstance(value, list):
        changed[name] = _odd_list(draw, value)
    elif isinstance(value, bool):
        changed[name] = not value
    elif isinstance(value, int):
        changed[name] = draw.choice([value - 1, value + 1, *EXTREMES])
    else:
        changed[name] = tensor(draw, [draw.choice([0, 1, 3, 17])], draw.choice(["int64", "float32", "bfloat16"]))
    return changed


def _odd_tensor(draw: Random, spec: Spec) -> Spec:
    shape = list(spec["shape"])
    at = draw.randrange(len(shape)) if shape else 0
    match draw.choice(["shape", "shape", "huge", "dtype", "layout", "fill", "fill", "device"]):
        case "shape" if shape:
            what = draw.choice(["empty", "more", "less", "drop", "add"])
            if what in ("drop", "add"):
                shape[at : at + (what == "drop")] = [] if what == "drop" else [draw.choice([1, 2])]
            else:
                shape[at] = {"empty": 0, "more": shape[at] + 1, "less": max(0, shape[at] - 1)}[what]
            return {**spec, "shape": shape}
        case "huge" if shape:
            # Only an expanded tensor can be as large as this without the memory for it.
            shape[at] = draw.choice(HUGE_SIZES)
            return {**spec, "shape": shape, "layout": "expanded"}
        case "dtype":
            return {**spec, "dtype": draw.choice(DTYPES)}
        case "layout":
            return {**spec, "layout": draw.choice([*LAYOUTS, *ODD_LAYOUTS])}
        case "device":
            return {**spec, "device": "meta"}
    return {**spec, "fill": draw.choice(INDICES if "below" in spec else FILLS)}


def _odd_list(draw: Random, values: list[int]) -> list[int]:
    changed = list(values)
    what = draw.choice(["extreme", "extreme", "extreme", "fewer", "more", "none"])
    if what == "extreme" and changed:
        changed[draw.randrange(len(changed))] = draw.choice(EXTREMES)
        return changed
    return {"fewer": changed[:-1], "more": [*changed, 1]}.get(what, [])


def everything_on_meta(arguments: Mapping[str, Any]) -> Arguments:
    """The same call with no data, as tracing makes it."""
    return {k: {**v, "device": "meta"} if isinstance(v, dict) else v for k, v in arguments.items()}


def random_call(draw: Random, schemas: Mapping[str, Sequence[str]], dtypes: Sequence[str], *, odd: bool) -> Spec:
    """One call: {"op", "arguments", "threads", "right"}; `right` tells that nothing was broken in it."""
    op = draw.choice(sorted(schemas))
    arguments = right_call(draw, schemas[op], dtypes)
    breaks = draw.choice([1, 1, 2, 3]) if odd else 0
    for _ in range(breaks):
        arguments = broken(draw, arguments)
    if draw.random() < 0.1:
        arguments = everything_on_meta(arguments)
    return {"op": op, "arguments": arguments, "threads": draw.choice([1, 1, 1, 2, 3]), "right": not odd}
