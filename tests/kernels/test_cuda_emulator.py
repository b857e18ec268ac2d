"""The emulator runs right kernels rightly and catches wrong ones: races, missing waits, accesses out of bounds."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).parent / "cuda"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kernel_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"kernel_{name}"] = module
    spec.loader.exec_module(module)
    return module


emulated = _load("emulated")
Read = emulated.Read


@pytest.fixture(scope="module")
def toys() -> object:
    return emulated.Emulated(HERE / "toys.cu")


@pytest.mark.parametrize("seed", range(5))
def test_right_kernels_give_right_results_in_any_order(toys, seed: int) -> None:
    x, y = torch.randn(256), torch.zeros(256)
    toys.call("toy_reverse", Read(x), y, 0, seed=seed)
    assert torch.equal(y[:128], x[:128].flip(0))
    toys.call("toy_twice", Read(x), y, 2, seed=seed)
    assert torch.equal(y, x.view(-1, 2).flip(1).flatten())
    toys.call("toy_neighbours", Read(x), y, 1, seed=seed)
    assert torch.equal(y[:32], x[:32].roll(-1))
    toys.call("toy_scale", Read(x), y, 8, 250, seed=seed)
    assert torch.equal(y[:250], 2 * x[:250])
    values, sums = torch.randn(5, 32, dtype=torch.double), torch.zeros(5, dtype=torch.double)
    toys.call("toy_warp_sums", Read(values), sums, 5, seed=seed)
    torch.testing.assert_close(sums, values.sum(1))


@pytest.mark.parametrize("seed", range(3))
def test_copies_in_the_background_arrive_at_the_wait(toys, seed: int) -> None:
    x, y = torch.randn(200, 4), torch.zeros(200, 4)
    toys.call("toy_pipelined_copy", Read(x), y, 200, 1, seed=seed)
    assert torch.equal(y, x.view(-1, 2, 4).flip(1).reshape(200, 4))
    with pytest.raises(emulated.KernelFault, match=r"cp\.async data touched before the wait.*toys\.cu:\d+"):
        toys.call("toy_pipelined_copy", Read(x), y, 200, 0, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_wrong_kernels_are_caught(toys, seed: int) -> None:
    x, y = torch.randn(256), torch.zeros(256)

    def fails(match: str, *arguments: object) -> None:
        with pytest.raises(emulated.KernelFault, match=match):
            toys.call(*arguments, seed=seed)

    fails(r"race: |nobody wrote", "toy_reverse", Read(x), y, 1)
    fails(r"deadlock: 64 of 128 threads wait at a barrier, 64 have left", "toy_reverse", Read(x), y, 2)
    fails(r"read of shared memory that nobody wrote", "toy_reverse", Read(x), y, 3)
    fails(r"race: (write after a read|read after a write) of", "toy_twice", Read(x), y, 1)
    fails(r"race: |nobody wrote", "toy_neighbours", Read(x), y, 0)
    fails(r"race: write after a write of", "toy_everybody_first", y, 2)
    fails(r"out of bounds, reading 4 bytes of memory of nobody.*0 bytes past", "toy_scale", Read(x[:256]), y, 9, 257)
    fails(r"write to constant memory", "toy_scale", Read(x), Read(y), 8, 256)
    fails(r"misaligned", "toy_wide_copy", Read(x[1:]), y, 8)
    fails(r"out of bounds", "toy_wide_copy", Read(x), y, 65)
    fails(r"overflow of \*.*toys\.cu:\d+", "toy_products", torch.zeros(32, dtype=torch.int32), 2**30)
    fails(r"invalid launch", "toy_wide_copy", Read(x), y, 2048)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_tensor_core_products(toys, dtype: torch.dtype, transposed: bool) -> None:
    a, b, c = torch.randn(16, 16).to(dtype), torch.randn(16, 8).to(dtype), torch.zeros(16, 8)
    right = b if transposed else b.t().contiguous()
    toys.call("toy_multiply", Read(a), Read(right), c, int(dtype == torch.bfloat16), int(transposed))
    torch.testing.assert_close(c, a.float() @ b.float(), rtol=1e-5, atol=1e-5)


def test_tensor_core_product_of_tf32() -> None:
    toys = emulated.Emulated(HERE / "toys.cu")
    a, b, c = torch.randn(16, 8), torch.randn(8, 8), torch.zeros(16, 8)
    toys.call("toy_multiply_tf32", Read(a), Read(b), c)

    def rounded(values: torch.Tensor) -> torch.Tensor:
        """To 10 bits of mantissa, ties away from zero."""
        return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).double()

    torch.testing.assert_close(c.double(), rounded(a) @ rounded(b), rtol=1e-5, atol=1e-5)
    assert not torch.equal(c, a @ b)
