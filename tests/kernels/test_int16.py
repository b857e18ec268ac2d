"""The fused op in 16-bit integers: within what rounding its samples may cost, whatever the numbers are."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aslconvert.kernels import build_info, has_int16, reference

OPS = torch.ops.asl
MOST_SAMPLE = 32000  # as the kernel has it
needs_kernel = pytest.mark.skipif(not has_int16(), reason="this processor has no AVX-512 with VNNI")
SAME = ([1, 1], [-1, -1])


def layer(
    seed: int, *, batch: int = 1, channels: int = 5, rows: int = 7, outputs: int = 4, size: tuple[int, ...] = (9, 11)
) -> dict[str, Tensor]:
    """The op's tensors at random; shifts whole and half or free, near or far, images of any scale."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shift = normal(rows, len(size)) * (1 if seed % 3 else 20)
    weight, scale = reference.pack_int16(normal(outputs, rows))
    return {
        "x": normal(batch, channels, *size) * 10 ** float(normal(1)),
        "shift": (shift * 2).round() / 2 if seed % 2 else shift,
        "source": torch.randint(channels, (rows,), generator=generator),
        "weight": weight,
        "scale": scale,
        "bias": normal(outputs),
    }


def exact(made: dict[str, Tensor], *rest: Any) -> Tensor:
    """The op on unrounded samples, in float64."""
    plain = reference.unpack_int16(made["x"], made["shift"], made["weight"], made["scale"])
    wide = [value.double() if isinstance(value, Tensor) else value for value in rest]
    return reference.shift_pointwise(
        made["x"].double(), made["shift"], made["source"], plain.double(), made["bias"].double(), *wide
    )


def bound(made: dict[str, Tensor], wanted: Tensor) -> Tensor:
    """Half a step of each sample, times its weight; and what float32 rounds on the way."""
    sums = made["weight"].double().abs().sum((1, 3)).flatten()[: len(made["scale"])]
    most = min(max((2**31 - 1) // max(int(sums.max()), 1) - 1, 1), MOST_SAMPLE)
    step = made["x"].double().abs().flatten(1).amax(1) / most
    rounding = step[:, None] * sums * made["scale"].double() * 0.51
    return rounding.view(*rounding.shape, *[1] * (wanted.dim() - 2)) + 1e-5 * (1 + wanted.abs().amax())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 16, 24]),
    rows=st.sampled_from([1, 2, 5, 16, 33, 130]),
    outputs=st.sampled_from([1, 7, 8, 9, 24]),
    size=st.sampled_from([(1, 1), (7, 9), (14, 14), (5, 70), (33, 48)]),
    stride=st.sampled_from([1, 1, 1, 2]),
    delta=st.sampled_from([-1, -1, 0, 2]),
    relu=st.booleans(),
    added=st.booleans(),
)
def test_the_op_is_within_the_rounding_of_its_samples(
    seed: int,
    batch: int,
    channels: int,
    rows: int,
    outputs: int,
    size: tuple[int, int],
    stride: int,
    delta: int,
    relu: bool,
    added: bool,
) -> None:
    made = layer(seed, batch=batch, channels=channels, rows=rows, outputs=outputs, size=size)
    out = reference.output_size(size, [stride] * 2, [delta] * 2)
    residual = torch.randn(batch, outputs, *out) if added else None
    rest = ([stride] * 2, [delta] * 2, relu, residual)
    y, wanted = OPS.shift_pointwise_int16(*made.values(), *rest), exact(made, *rest)
    assert (y.shape, y.dtype) == (wanted.shape, torch.float32)
    assert ((y - wanted).abs() <= bound(made, wanted)).all()


@needs_kernel
def test_it_is_the_integers_that_run() -> None:
    made = layer(1, channels=16, rows=32, outputs=16, size=(14, 14))
    plain = reference.unpack_int16(made["x"], made["shift"], made["weight"], made["scale"])
    y = OPS.shift_pointwise_int16(*made.values(), *SAME, False)
    other = OPS.shift_pointwise(made["x"], made["shift"], made["source"], plain, made["bias"], *SAME, False)
    assert 1e-6 < float((y - other).norm() / other.norm()) < 1e-3


@pytest.mark.parametrize("rows", [1, 3, 64, 2048, 2049])
def test_sums_cannot_pass_32_bits(rows: int) -> None:
    """Every weight and every sample as large as it can be, all of one sign."""
    made = layer(0, channels=1, rows=rows, outputs=9, size=(3, 20))
    made["x"] = torch.full((1, 1, 3, 20), 7.0)
    made["shift"] = torch.zeros(rows, 2)
    for value in (32767, -32768):
        made["weight"] = torch.full_like(made["weight"], value)
        wanted = exact(made, *SAME, False)
        y = OPS.shift_pointwise_int16(*made.values(), *SAME, False)
        # So large a sum leaves samples few steps, which are then hit exactly.
        assert float(((y - wanted) / wanted).abs().max()) < 1e-4


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), outputs=st.integers(0, 20), rows=st.integers(0, 40), power=st.integers(-30, 30))
def test_packed_weights_are_off_by_half_a_step(seed: int, outputs: int, rows: int, power: int) -> None:
    weight = torch.randn(outputs, rows, generator=torch.Generator().manual_seed(seed)) * 10.0**power
    whole, scale = reference.pack_int16(weight)
    assert (whole.dtype, whole.shape) == (torch.int16, ((outputs + 7) // 8, (rows + 1) // 2, 8, 2))
    assert int(whole.long().abs().sum((1, 3)).max() if whole.numel() else 0) <= reference.MOST_SUM
    back = reference.unpack_int16(weight[None], weight.new_zeros(rows, 2), whole, scale)
    assert ((back - weight).abs() <= scale[:, None] * 0.51).all()


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    made = layer(5, batch=3, channels=16, rows=32, outputs=16, size=(14, 14))
    made["x"] *= torch.tensor([1.0, 1e4, 1e-4]).view(3, 1, 1, 1)
    together = OPS.shift_pointwise_int16(*made.values(), *SAME, True)
    for n in range(3):
        alone = {**made, "x": made["x"][n : n + 1].clone()}
        assert torch.equal(OPS.shift_pointwise_int16(*alone.values(), *SAME, True), together[n : n + 1])


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e35, 1e-42, 0.0])
def test_numbers_that_have_no_scale_are_computed_in_float(value: float) -> None:
    made = layer(3, channels=16, rows=32, outputs=16, size=(14, 14))
    made["x"] = torch.full_like(made["x"], value) if 0 < value < 1 or value == 0 else made["x"]
    made["x"][0, 0, 5, 5] = value
    plain = reference.unpack_int16(made["x"], made["shift"], made["weight"], made["scale"])
    y = OPS.shift_pointwise_int16(*made.values(), *SAME, False)
    other = OPS.shift_pointwise(made["x"], made["shift"], made["source"], plain, made["bias"], *SAME, False)
    torch.testing.assert_close(y, other, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(40,), (4, 5, 6)])
def test_other_axes_and_layouts_are_computed_in_float(size: tuple[int, ...]) -> None:
    made = layer(4, batch=2, size=size)
    rest = ([1] * len(size), [-1] * len(size), False)
    torch.testing.assert_close(
        OPS.shift_pointwise_int16(*made.values(), *rest).double(), exact(made, *rest), rtol=1e-4, atol=1e-4
    )
    made = layer(4, batch=2)
    made["x"] = made["x"].contiguous(memory_format=torch.channels_last)
    y = OPS.shift_pointwise_int16(*made.values(), *SAME, False)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.double(), exact(made, *SAME, False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 5, 9, 11), (2, 5, 0, 11), (2, 5, 9, 0), (2, 2**62, 1, 0)])
def test_nothing_to_read_or_to_write_is_no_error(shape: tuple[int, ...]) -> None:
    made = layer(6)
    made["x"] = torch.zeros(shape)
    rest = ([1, 1], [0, 0], False)
    torch.testing.assert_close(OPS.shift_pointwise_int16(*made.values(), *rest), exact(made, *rest).float())


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    made = layer(8, batch=2, channels=48, rows=96, outputs=40, size=(61, 45))
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(OPS.shift_pointwise_int16(*made.values(), *SAME, True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.zeros(1, 4, 8, 2)},
        {"weight": torch.zeros(1, 3, 8, 2, dtype=torch.int16)},
        {"weight": torch.zeros(2, 4, 8, 2, dtype=torch.int16)},
        {"scale": torch.ones(4, dtype=torch.float64)},
        {"scale": torch.ones(2, 2)},
        {"bias": torch.ones(3)},
        {"x": torch.zeros(1, 5, 9, 11, dtype=torch.float64)},
        {"source": torch.full((7,), 5)},
    ],
    ids=lambda change: f"{next(iter(change))} {tuple(next(iter(change.values())).shape)}",
)
def test_what_does_not_fit_is_refused(change: dict[str, Tensor]) -> None:
    # Without data only values cannot be looked at.
    for device in ("cpu",) if "source" in change else ("cpu", "meta"):
        made = {name: value.to(device) for name, value in {**layer(1), **change}.items()}
        with pytest.raises(RuntimeError, match="shift"):
            OPS.shift_pointwise_int16(*made.values(), *SAME, False)


def test_the_op_keeps_its_contract() -> None:
    made = layer(2, channels=16, rows=32, outputs=16, size=(14, 14))
    residual = torch.randn(1, 16, 14, 14)
    for rest in ((*SAME, False), (*SAME, True, residual)):
        torch.library.opcheck(OPS.shift_pointwise_int16.default, (*made.values(), *rest))


@pytest.mark.skipif(not build_info().get("isa", "").startswith("x86-64-"), reason="needs the x86 native kernels")
@pytest.mark.parametrize("isa", ["x86-64", "x86-64-v3"])
def test_lesser_machines_compute_it_in_float(isa: str) -> None:
    code = (
        "import torch, sys; sys.path.insert(0, sys.argv[1]); import aslconvert.kernels as k\n"
        "assert k.build_info()['int16'] == 'none' and not k.has_int16()\n"
        "from aslconvert.kernels import reference as r\n"
        "g = torch.Generator().manual_seed(0)\n"
        "x, s, w = (torch.randn(*shape, generator=g) for shape in ((2, 7, 9, 9), (7, 2), (5, 7)))\n"
        "q = r.pack_int16(w)\n"
        "y = torch.ops.asl.shift_pointwise_int16(x, s, None, *q, None, [1, 1], [-1, -1], False)\n"
        "o = torch.ops.asl.shift_pointwise(x, s, None, r.unpack_int16(x, s, *q), None, [1, 1], [-1, -1], False)\n"
        "assert torch.equal(y, o)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "."],
        env={**os.environ, "ASLCONVERT_MAX_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
