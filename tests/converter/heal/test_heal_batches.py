"""A step is the same in pieces, over processes, and after memory ran out, to what float32 rounds."""

import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.heal.distil import Healing, heal
from aslconvert.converter.heal.pool import Pool, build_pool
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in

STEPS = 6
BATCH = 10


class Scorer(nn.Module):
    """Class scores and a map, so that both kinds of loss are summed over pieces."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, width, 3, padding=1)
        self.outer = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.outer(torch.relu(self.inner(x)))
        return y.mean((2, 3)), y


def student_and_pool(*, width: int = 8, side: int = 12, count: int = 50) -> tuple[fx.GraphModule, Pool]:
    torch.manual_seed(0)
    teacher = graph_module(export_model(Scorer(width).eval(), (torch.randn(2, 3, side, side),)))
    blocks = {site.name: stand_in(site, 2 * site.in_channels, seed=1) for site in find_sites(teacher)[0]}
    inputs = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    # Samples of very different size: each piece's own scale would weigh them differently.
    inputs *= torch.linspace(0.1, 3, count)[:, None, None, None]
    return replace_sites(teacher, blocks), build_pool(teacher, (inputs,))


def healed(**more: object) -> tuple[dict[str, Tensor], Healing]:
    gm, pool = student_and_pool()
    healing = heal(gm, pool, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH, **more)  # type: ignore[arg-type]
    return gm.state_dict(), healing


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    return healed()[0]


def assert_close(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert given.keys() == wanted.keys()
    start = student_and_pool()[0].state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in wanted.items())
    for name, value in wanted.items():
        # Gradients are normalised, which magnifies what their sums round off in another order.
        torch.testing.assert_close(given[name], value, rtol=2e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("pieces", [2, 3, 10, 99])
def test_pieces_add_up_to_the_batch(whole: dict[str, Tensor], pieces: int) -> None:
    assert_close(healed(pieces=pieces)[0], whole)


NOTES: list[str] = []


def test_two_processes_heal_to_the_weights_of_one(whole: dict[str, Tensor], tmp_path: Path) -> None:
    # What `accelerate launch` starts for several processes; on the CPU alone it wants MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, __file__, "together", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
    assert_close(results[0], whole)
    assert (tmp_path / "x.pt").is_file()


def test_where_memory_runs_out_the_batch_is_halved_once() -> None:
    # Of the memory that is freed nothing is kept: else a step may find room that no limit takes away.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "confined"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "Memory ran out on a batch of 32 in 1 pieces. It is now computed in 2.",
        "2 steps",
        "Memory ran out on a batch of 64 in 1 pieces. It is now computed in 2.",
        "out_of_memory",
    ]


def together(folder: Path) -> None:
    import torch.distributed

    gm, pool = student_and_pool()
    pieces = 2
    heal(gm, pool, seconds=math.inf, max_steps=STEPS, seed=3, batch=BATCH, pieces=pieces, checkpoint=folder / "x.pt")
    assert torch.distributed.get_world_size() == 2
    save_file(gm.state_dict(), folder / f"{torch.distributed.get_rank()}.safetensors")
    torch.distributed.destroy_process_group()


def confined() -> None:
    """Heals with less memory than a step of 32 samples takes, then with twice the samples."""
    torch.set_num_threads(1)
    gm, pool = student_and_pool(width=32, side=64, count=96)

    def run(batch: int, **more: Any) -> Healing:
        return heal(gm, pool, seconds=math.inf, seed=3, batch=batch, on_note=tell, **more)

    run(32, max_steps=1, pieces=32)
    size, resident = (int(pages) * resource.getpagesize() for pages in Path("/proc/self/statm").read_text().split()[:2])
    run(32, max_steps=1)
    # Not getrusage: its peak begins with that of the process that started this one.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    needed = int(peak) * 1024 - resident
    # The first limit that is too low for a whole step is the one.
    for share in (0.8, 0.7, 0.6, 0.5):
        resource.setrlimit(resource.RLIMIT_AS, (int(size + needed * share), resource.RLIM_INFINITY))
        if run(32, max_steps=2).steps == 2 and NOTES:
            tell("2 steps")
            break
    try:
        run(64, max_steps=2)
    except InfrastructureError as error:
        tell(error.code)


def tell(text: str) -> None:
    NOTES.append(text)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    if sys.argv[1] == "together":
        together(Path(sys.argv[2]))
    else:
        confined()
