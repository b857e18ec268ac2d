"""Runs described calls, one JSON line each, in a process that may crash; answers with a verdict a line."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aslconvert.kernels import reference

HEADROOM = 2 << 30  # bytes that a call may ask for
ALLOWED = (RuntimeError, ValueError, NotImplementedError, MemoryError)
OPTIONAL = ("source", "bias", "residual")
FILLED = {"zero": 0.0, "nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf, "huge": 1e30, "tiny": 1e-30}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11, torch.bfloat16: 4e-2, torch.float16: 1e-2}
LARGE = 1 << 22  # elements: sixteen lanes of each in double precision are half of the least room that calls have
SLOW = 1 << 25  # elements of a result that the reference needs many passes over
MOST_WORK = 1 << 28  # samples of a call: more take longer than one may wait, on one core under a sanitizer
MOST_ROWS = 1 << 24  # of a shift, as the kernels promise
OUT_OF_MEMORY = (
    "can't allocate memory",
    "Storage size calculation overflowed",
    "Stride calculation overflowed",
    "more elements than can be counted",
    "not enough memory",
    "bad_alloc",
    "torch_parallel_for(",  # the same inside a loop of the library, which keeps the reason to itself
)


def limit_memory() -> None:
    """Lets huge requests fail as they would on a full machine; a sanitizer needs the whole address space itself."""
    if "asan" in os.environ.get("LD_PRELOAD", "") or not Path("/proc/self/statm").exists():
        return
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + HEADROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def make_tensor(spec: dict[str, Any]) -> Tensor:
    """The described tensor: values first, then the way they lie in memory."""
    shape, dtype = spec["shape"], getattr(torch, spec["dtype"])
    if spec["layout"] == "expanded":
        small = [1 if size > 1 else size for size in shape]
        return lay_out(_values(spec, small, dtype), "contiguous", spec["device"]).expand(shape)
    return lay_out(_values(spec, shape, dtype), spec["layout"], spec["device"])


def _values(spec: dict[str, Any], shape: list[int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(spec["seed"])
    fill = spec["fill"]
    if "below" in spec:
        below = max(spec["below"], 1)
        values = torch.randint(0, below, shape, generator=generator)
        odd = {"last": below - 1, "past": below, "negative": -1, "far": 2**40}.get(fill)
        if odd is not None and values.numel():
            values.view(-1)[-1] = odd
        return values.to(dtype)
    numbers = torch.randn(shape, generator=generator)
    if fill == "half":
        numbers = (numbers * 4).round() / 2
    elif fill == "spread":
        numbers = numbers * 1000
    elif fill in FILLED and numbers.numel():
        numbers.view(-1)[torch.randint(0, numbers.numel(), (), generator=generator)] = FILLED[fill]
    return numbers.to(dtype)


def lay_out(values: Tensor, layout: str, device: str) -> Tensor:
    """The same values in other memory; layouts that a tensor of these dimensions cannot have leave it as it is."""
    if device == "meta":
        values = values.to("meta")
    if layout == "channels_last" and values.dim() in (4, 5):
        last = torch.channels_last if values.dim() == 4 else torch.channels_last_3d
        return values.contiguous(memory_format=last)
    if layout == "sliced":
        return torch.stack([values, values], -1)[..., 0]
    if layout == "transposed":
        back = list(range(values.dim()))[::-1]
        return values.permute(back).contiguous().permute(back)
    if layout == "overlapping" and values.numel():
        flat = torch.cat([values.reshape(-1)] * 2)
        return flat.as_strided(values.shape, [1] * values.dim(), 1)
    if layout == "offset":
        return torch.cat([values.new_zeros(1), values.reshape(-1)])[1:].view(values.shape)
    if layout == "negated" and values.is_floating_point():
        return torch._neg_view(values)
    if layout == "sparse":
        return values.to_sparse()
    if layout == "grad" and values.is_floating_point():
        return values.requires_grad_()
    return values


def run(function: Any, arguments: dict[str, Any]) -> tuple[tuple[Tensor, ...] | None, Exception | None]:
    """The tensors that it gives, or what it raised."""
    try:
        result = function(**arguments)
    except Exception as error:  # noqa: BLE001  (the kind of error is what is judged)
        return None, error
    return tuple(y.detach() for y in result) if isinstance(result, tuple) else (result.detach(),), None


def oracle(op: str) -> Any:
    """The op's readable definition."""
    if op == "shift_pointwise_int16":

        def int16_oracle(x: Tensor, shift: Tensor, weight: Tensor, scale: Tensor, **rest: Any) -> Tensor:
            plain = reference.unpack_int16(x, shift, weight, scale)
            return reference.shift_pointwise(x=x, shift=shift, weight=plain, **rest)

        return int16_oracle
    if op != "shift_pointwise_packed" or hasattr(reference, op):
        return getattr(reference, op)

    def packed_oracle(packed: Tensor, out_channels: int, **rest: Any) -> Tensor:
        return reference.shift_pointwise(weight=reference.unpack_pointwise(packed, out_channels), **rest)

    return packed_oracle


def judge(call: dict[str, Any]) -> tuple[str, str]:
    """("value" | "error" | "skipped" | "wrong", what was seen)."""
    try:
        made = {name: make_tensor(v) if isinstance(v, dict) else v for name, v in call["arguments"].items()}
    except (RuntimeError, NotImplementedError) as error:
        return "skipped", f"torch itself cannot make this tensor: {error}"
    if torch.get_num_threads() != call["threads"]:
        torch.set_num_threads(call["threads"])
    devices = {value.device.type for value in made.values() if isinstance(value, Tensor)}
    if _takes_too_long(call["op"], made):
        return "skipped", "more work than there is time for"
    actual, error = run(getattr(torch.ops.asl, call["op"]), made)
    # torch hands None on where a tensor is required, and sparse tensors too: whatever meets them first complains.
    foreign = any(made[name] is None for name in made if name not in OPTIONAL) or _any_sparse(made)
    if error is not None and not isinstance(error, ALLOWED) and not foreign:
        return "wrong", f"raised {type(error).__name__}: {error}"
    if error is not None and ("INTERNAL ASSERT" in str(error) or not str(error).strip()):
        return "wrong", f"raised without a useful message: {error}"
    if len(devices) > 1:
        return ("wrong", "gave a result for tensors on several devices") if error is None else ("error", str(error))
    if "meta" in devices:
        spec = {k: {**v, "device": "cpu"} if isinstance(v, dict) else v for k, v in call["arguments"].items()}
        made = {name: make_tensor(v) if isinstance(v, dict) else v for name, v in spec.items()}
    results = () if foreign else _without_values(call["op"], made)
    slow = any(_claim(result) > SLOW for result in (*results, *_without_values("active_shift", made)) if results)
    expected, refusal = _checked(results, made) if slow else run(oracle(call["op"]), made)
    if refusal is not None and _out_of_memory(refusal):
        return "skipped", "the reference needs more memory"
    if error is not None:
        if call["right"]:
            return "wrong", f"refused a right call: {error}"
        if refusal is None and not _may_refuse(error, made, expected or ()):
            return "wrong", f"refused what the reference computes: {error}"
        return "error", str(error)
    if refusal is not None and not any(result.numel() for result in actual or ()):
        return "value", "nothing to compute, so values were not looked at"
    if refusal is not None and "meta" not in devices:
        return "wrong", f"computed what the reference refuses: {refusal}"
    if refusal is not None:
        return "value", "meta"
    try:
        return compare(actual or (), expected or (), call, values="meta" not in devices and not slow)
    except (RuntimeError, MemoryError) as error:
        if _out_of_memory(error):
            return "skipped", "the comparison needs more memory"
        raise


def _any_sparse(made: dict[str, Any]) -> bool:
    return any(isinstance(value, Tensor) and value.layout != torch.strided for value in made.values())


def _claim(tensor: Tensor) -> int:
    """Elements, sides of none counted as one: strides and the reference's indices grow with the others all the same."""
    return math.prod(max(size, 1) for size in tensor.shape)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def _without_values(op: str, made: dict[str, Any]) -> tuple[Tensor, ...]:
    """Results on meta, of this op or of one with fewer arguments; none where it refuses, or lacks an argument."""
    names = [argument.name for argument in getattr(torch.ops.asl, op).default._schema.arguments]

    def call() -> Any:
        given = {name: made[name] for name in names}
        meta = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in given.items()}
        return getattr(torch.ops.asl, op)(**meta)

    return () if set(names) - set(made) else run(call, {})[0] or ()


def _takes_too_long(op: str, made: dict[str, Any]) -> bool:
    """Whether a call samples too much although its results fit into memory; where they do not, it must be refused."""
    if _any_sparse(made) or any(made[name] is None for name in made if name not in OPTIONAL):
        return False
    results = _without_values(op, made)
    fit = all(result.numel() * result.element_size() < HEADROOM for result in results)
    return fit and any(y.numel() > MOST_WORK for y in _without_values("active_shift", made) if results)


def _checked(results: tuple[Tensor, ...], made: dict[str, Any]) -> tuple[tuple[Tensor, ...] | None, Exception | None]:
    """Results without values, or what the reference raises for the values of the arguments."""

    def check() -> tuple[()]:
        if "shift" in made:
            reference.check_values(made["x"], made["shift"], made["source"])
        return ()

    refusal = run(check, {})[1]
    return (None, refusal) if refusal is not None else (results, None)


def _may_refuse(error: Exception, made: dict[str, Any], expected: tuple[Tensor, ...]) -> bool:
    """What only the reference reads or computes: sparse tensors, shifts of too many rows, sizes short of memory."""
    tensors = [value for value in made.values() if isinstance(value, Tensor)]
    if _any_sparse(made) or ("shift" in made and made["shift"].shape[0] > MOST_ROWS and "2^24" in str(error)):
        return True
    return _out_of_memory(error) and any(_claim(tensor) > LARGE for tensor in (*tensors, *expected))


def compare(
    actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], call: dict[str, Any], *, values: bool
) -> tuple[str, str]:
    """Shapes, types and, where there are `values`, numbers; what is not finite must be so in the same places."""
    fills = {name: v["fill"] for name, v in call["arguments"].items() if isinstance(v, dict)}
    types = {getattr(torch, v["dtype"]) for v in call["arguments"].values() if isinstance(v, dict)}
    # The coarsest type tells: shifts may be finer than images, and gradients of shifts have the shifts' type.
    tolerance = max(TOLERANCE.get(dtype, 0.0) for dtype in types)
    if call["op"] == "shift_pointwise_int16":
        # Steps of a sample, whose sizes tests/kernels/test_int16.py bounds; sums may cancel.
        tolerance = max(tolerance, 5e-3)
    for index, (got, want) in enumerate(zip(actual, expected, strict=True)):
        if got.shape != want.shape or got.dtype != want.dtype:
            return "wrong", f"result {index}: {list(got.shape)} {got.dtype}, not {list(want.shape)} {want.dtype}"
        if not values or not want.numel() or "huge" in fills.values() or want.layout != torch.strided:
            continue
        bad_grad = call["op"] == "active_shift_backward" and fills["grad"] in ("nan", "inf", "-inf")
        finite = torch.isfinite(want)
        if bad_grad and index == 1:
            # The reference multiplies such a gradient with the zero of a missing pixel, the kernel never meets it.
            finite = finite & torch.isfinite(got)
        elif not torch.equal(torch.isfinite(got), finite):
            return "wrong", f"result {index}: not finite in other places than the reference"
        got, want = got[finite].double(), want[finite].double()
        if not want.numel():
            continue
        error, scale = float((got - want).abs().max()), 1 + float(want.abs().max())
        if error > tolerance * scale:
            return "wrong", f"result {index}: off by {error:.3g} where values reach {scale - 1:.3g}"
    return "value", ""


def main() -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints goes to the log
    limit_memory()
    answers.write(json.dumps(["ready", ""]) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(judge(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
