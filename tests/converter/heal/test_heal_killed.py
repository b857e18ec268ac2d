"""A process that heals is killed outright: the next one ends in the same weights."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from aslconvert.converter.heal import distil
from aslconvert.converter.heal.checkpoint import read_checkpoint
from aslconvert.converter.heal.pool import Pool, build_pool
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in

STEPS = 60
PATIENCE = 120


def student_and_pool() -> tuple[fx.GraphModule, Pool]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()
    teacher = graph_module(export_model(net, (torch.randn(2, 3, 12, 12),)))
    blocks = {site.name: stand_in(site, 2 * site.in_channels, seed=1) for site in find_sites(teacher)[0]}
    inputs = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return replace_sites(teacher, blocks), build_pool(teacher, (inputs,))


def run(checkpoint: Path | None, *, slowly: bool = False) -> fx.GraphModule:
    gm, pool = student_and_pool()

    def on_step(*_: float) -> None:
        # So that a kill has something to interrupt.
        if slowly:
            time.sleep(0.05)

    distil.heal(gm, pool, seconds=600.0, seed=3, max_steps=STEPS, checkpoint=checkpoint, on_step=on_step)
    return gm


def test_a_killed_run_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "CHECKPOINT_SECONDS", 0.01)
    checkpoint = tmp_path / "x.pt"
    reached = []
    for more in (3, 5):
        process = subprocess.Popen([sys.executable, __file__, str(checkpoint)])
        seen: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        # Killed at whatever it is at after some more checkpoints, the writing of the next one included.
        while len(seen) < more and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it could be killed"
            # For a moment the one before alone is there.
            with contextlib.suppress(FileNotFoundError):
                seen.add(checkpoint.stat().st_mtime_ns)
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        record = read_checkpoint(checkpoint)
        assert record is not None
        reached.append(record["counters"]["step"])
    assert 0 < reached[0] < reached[1] < STEPS
    resumed, whole = run(checkpoint), run(None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    distil.CHECKPOINT_SECONDS = 0.01
    run(Path(sys.argv[1]), slowly=True)
