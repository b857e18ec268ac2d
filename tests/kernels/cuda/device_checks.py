"""What must hold on a real GPU; runs under pytest (test_cuda_device.py), or alone where only torch is installed."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

import aslconvert.kernels as kernels
from aslconvert.kernels import reference

OPS = torch.ops.asl
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Relative to the largest expected value; the fused op may round the shifted panel before the product.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}
FUSED_TOLERANCE = {**TOLERANCE, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def _cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_cases", Path(__file__).parent.parent / "cases.py")
    if spec is None or spec.loader is None:
        raise RuntimeError("tests/kernels/cases.py is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel_cases"] = module
    spec.loader.exec_module(module)
    return module


cases = _cases()


def say(text: str) -> None:
    """One line to standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def require(condition: object, message: str) -> None:
    """Raises AssertionError where the condition does not hold."""
    if not condition:
        raise AssertionError(message)


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Equal to the float64 expectation within `tolerance` of its largest value."""
    require(actual.shape == expected.shape, f"{what}: shape {list(actual.shape)} is not {list(expected.shape)}")
    if expected.numel():
        error = float((actual.detach().double().cpu() - expected.double()).abs().max())
        allowed = tolerance * (1 + float(expected.double().abs().max()))
        require(error <= allowed, f"{what}: off by {error:.3g}, allowed {allowed:.3g}")


def _exact(shift: Tensor) -> Tensor:
    return shift if shift.dtype == torch.float64 else shift.float()


def check_problem(seed: int, dtype: torch.dtype) -> None:
    """All ops on a random problem, against the reference in float64 on the CPU."""
    problem = cases.random_problem(seed, dtype)
    x, shift, source, stride, delta = problem.arguments()
    exact = (x.double(), _exact(shift), source, stride, delta)
    expected = reference.active_shift(*exact)
    moved = (x.cuda(), shift.cuda(), None if source is None else source.cuda(), stride, delta)
    y = OPS.active_shift(*moved)
    close(y, expected, TOLERANCE[dtype], "forward")
    require(y.is_contiguous(memory_format=reference.memory_format_of(x)), "forward: another layout than the input's")

    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(y.shape, generator=generator).to(dtype)
    both = reference.active_shift_backward(grad.double(), *exact, True, True)
    for need_input, need_shift in ((True, True), (True, False), (False, True)):
        actual = OPS.active_shift_backward(grad.cuda(), *moved, need_input, need_shift)
        if need_input:
            close(actual[0], both[0], 2 * TOLERANCE[dtype], "input gradient")
        if need_shift:
            tolerance = 4 * max(TOLERANCE[shift.dtype], TOLERANCE[torch.float32 if dtype.itemsize == 2 else dtype])
            close(actual[1], both[1], tolerance, "shift gradient")

    rows = shift.shape[0]
    weight = (torch.randn(24, rows, generator=generator) / rows**0.5).to(dtype)
    bias = torch.randn(24, generator=generator).to(dtype) if seed % 2 else None
    relu = seed % 3 == 0
    fused = reference.shift_pointwise(
        *exact[:3], weight.double(), None if bias is None else bias.double(), stride, delta, relu
    )
    beside = None if bias is None else bias.cuda()
    close(
        OPS.shift_pointwise(*moved[:3], weight.cuda(), beside, stride, delta, relu),
        fused,
        FUSED_TOLERANCE[dtype],
        "fused",
    )


def check_determinism() -> None:
    """Twice the same bits, at a size where every kernel has many blocks."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(8, 96, 57, 56, device="cuda", generator=generator).contiguous(memory_format=layout)
        shift = torch.randn(128, 2, device="cuda", generator=generator)
        source = torch.randint(0, 96, (128,), device="cuda", generator=generator)
        grad = torch.randn(8, 128, 57, 56, device="cuda", generator=generator)

        def run(x: Tensor = x, shift: Tensor = shift, source: Tensor = source, grad: Tensor = grad) -> list[Tensor]:
            arguments = (x, shift, source, [1, 1], [-1, -1])
            return [OPS.active_shift(*arguments), *OPS.active_shift_backward(grad, *arguments, True, True)]

        first = run()
        require(
            all(torch.equal(a, b) for _ in range(5) for a, b in zip(first, run(), strict=True)), "not the same bits"
        )


def check_holes() -> None:
    """NaN and Inf where no tap reads, and rows that cannot be used, stay to themselves."""
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 3, 24, 24, device="cuda")
        x[:, :, :, 0], x[:, :, 0] = torch.nan, torch.inf
        shift = torch.tensor([[1.0, 1.0], [1.5, 1.0], [2.0, 1.25]], device="cuda")
        y = OPS.active_shift(x.contiguous(memory_format=layout), shift, None, [1, 1], [-1, -1])
        require(bool(torch.isfinite(y).all()), "a pixel that nobody reads leaked")
        source = torch.tensor([0, 3, -1], device="cuda")
        y = OPS.active_shift(x.contiguous(memory_format=layout), shift, source, [1, 1], [-1, -1])
        require(bool(torch.isfinite(y[:, 0]).all()), "a bad source spoilt another row")
        require(bool(torch.isnan(y[:, 1:]).all()), "a bad source must give NaN")
    torch.cuda.synchronize()


def check_autocast() -> None:
    """A converted block trains under autocast: float32 shifts beside float16 images."""
    block = nn.Sequential(nn.Conv2d(8, 8, 1), kernels.ActiveShift.random(8), nn.Conv2d(8, 8, 1)).cuda()
    x = torch.randn(2, 8, 16, 16, device="cuda")
    expected = block(x)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype=dtype):
            y = block(x)
        require(y.dtype == dtype, f"autocast gave {y.dtype}")
        close(y, expected.detach().cpu(), 5e-2, "autocast")
        block.zero_grad()
        y.float().square().sum().backward()
        require(block[1].shift.grad is not None and bool(block[1].shift.grad.isfinite().all()), "no shift gradient")


def check_compile() -> None:
    """torch.compile without a graph break, forward and backward."""
    layer = kernels.ActiveShift.random(8).cuda()
    x = torch.randn(2, 8, 16, 16, device="cuda", requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), (x, layer.shift))
    actual = torch.autograd.grad(torch.compile(layer, fullgraph=True)(x).square().sum(), (x, layer.shift))
    for a, e in zip(actual, expected, strict=True):
        close(a, e.cpu(), 1e-4, "compiled gradient")


def check_graph() -> None:
    """Forward, backward and the fused op replay from a CUDA graph on a side stream."""
    x, shift = torch.randn(2, 8, 16, 16, device="cuda"), torch.randn(12, 2, device="cuda")
    source, grad = torch.randint(0, 8, (12,), device="cuda"), torch.randn(2, 12, 16, 16, device="cuda")
    weight = torch.randn(16, 12, device="cuda")

    def run() -> list[Tensor]:
        arguments = (x, shift, source, [1, 1], [-1, -1])
        fused = OPS.shift_pointwise(x, shift, source, weight, None, [1, 1], [-1, -1], True)
        return [OPS.active_shift(*arguments), *OPS.active_shift_backward(grad, *arguments, True, True), fused]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for tensor in (x, grad, shift):
        tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    torch.cuda.synchronize()
    require(all(torch.equal(a, b) for a, b in zip(captured, run(), strict=True)), "the graph replays something else")


def check_opcheck() -> None:
    """Schema, fake and autograd registrations, on the device."""
    x, shift = torch.randn(2, 3, 7, 6, device="cuda"), torch.rand(4, 2, device="cuda")
    source = torch.tensor([0, 2, 2, 1], device="cuda")
    for dtype in (torch.float32, torch.float16):
        for layout in (torch.contiguous_format, torch.channels_last):
            image = x.to(dtype).contiguous(memory_format=layout)
            leaves = (image.clone().requires_grad_(), shift.clone().requires_grad_())
            torch.library.opcheck(OPS.active_shift.default, (*leaves, source, [2, 1], [-1, 0]))
            grad = torch.randn(2, 4, 7, 6, device="cuda", dtype=dtype)
            torch.library.opcheck(
                OPS.active_shift_backward.default, (grad, image, shift, source, [1, 1], [-1, -1], True, True)
            )


def check_errors() -> None:
    """Tensors on two devices and shapes that do not fit raise before anything is launched."""
    x, shift = torch.randn(1, 3, 6, 6, device="cuda"), torch.zeros(3, 2, device="cuda")
    for arguments in (
        (x, shift.cpu(), None, [1, 1], [-1, -1]),
        (x, shift[:2], None, [1, 1], [-1, -1]),
        (x, shift, None, [0, 1], [-1, -1]),
        (x, shift, torch.zeros(3, dtype=torch.int64), [1, 1], [-1, -1]),
    ):
        try:
            OPS.active_shift(*arguments)
        except RuntimeError:
            continue
        raise AssertionError("a call that cannot work did not raise")
    torch.cuda.synchronize()


def check_large() -> None:
    """More than 2^31 elements in both layouts: the last image is as right as the first."""
    free, _ = torch.cuda.mem_get_info()
    batch, channels, size = 33, 64, 1024
    elements = batch * channels * size * size
    if free < 3 * 2 * elements:
        say(f"skipped: {3 * 2 * elements >> 30} GiB are needed, {free >> 30} are free")
        return
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.empty(batch, channels, size, size, device="cuda", dtype=torch.bfloat16, memory_format=layout)
        x.normal_()
        shift = torch.randn(channels, 2, device="cuda")
        arguments = (shift, None, [1, 1], [-1, -1])
        y = OPS.active_shift(x, *arguments)
        require(torch.equal(y[-1:], OPS.active_shift(x[-1:].clone(memory_format=layout), *arguments)), "forward")
        grad_input, _ = OPS.active_shift_backward(y, x, *arguments, True, False)
        last = (y[-1:].clone(memory_format=layout), x[-1:].clone(memory_format=layout))
        require(torch.equal(grad_input[-1:], OPS.active_shift_backward(*last, *arguments, True, False)[0]), "gradient")
        del x, y, grad_input, last


def check_convolution() -> None:
    """All taps as rows are the library's convolution."""
    x, weight = torch.randn(2, 8, 20, 24, device="cuda").double(), torch.randn(5, 8, 3, 3, device="cuda").double()
    taps = (torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)) - 1).cuda()
    source = torch.arange(8, device="cuda").repeat_interleave(9)
    rows = OPS.active_shift(x, taps.repeat(8, 1), source, [1, 1], [-1, -1])
    y = functional.conv2d(rows, weight.view(5, 72, 1, 1))
    close(y, functional.conv2d(x, weight, padding=1).cpu(), 1e-12, "convolution")


CHECKS: dict[str, Callable[[], None]] = {
    "determinism": check_determinism,
    "holes": check_holes,
    "errors": check_errors,
    "convolution": check_convolution,
    "graph": check_graph,
    "autocast": check_autocast,
    "opcheck": check_opcheck,
    "compile": check_compile,
    "large": check_large,
}


def main() -> int:
    """Runs all checks, or with --small a few problems as a sanitizer wants them; returns the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--problems", type=int, default=60)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        say("no GPU")
        return 3
    seeds = range(6) if options.small else range(options.problems)
    names = ("holes", "convolution") if options.small else tuple(CHECKS)
    runs: list[tuple[str, Callable[[], None]]] = [
        (f"problem {seed} {dtype}", lambda seed=seed, dtype=dtype: check_problem(seed, dtype))  # type: ignore[misc]
        for seed in seeds
        for dtype in DTYPES
    ]
    failed = 0
    for name, run in [*runs, *((name, CHECKS[name]) for name in names)]:
        try:
            run()
        except Exception:  # noqa: BLE001 - a failed check must not hide the others
            failed += 1
            say(f"FAILED {name}\n{traceback.format_exc()}")
    say(f"{len(runs) + len(names) - failed} checks passed, {failed} failed")
    return min(failed, 100)


if __name__ == "__main__":
    raise SystemExit(main())
