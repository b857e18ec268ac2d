"""The healing that a GPU machine is given: what travels is enough to heal and to score, here on the CPU."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from aslconvert.converter.export.write import write_program
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_healing.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("gpu_healing", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_healing"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_healing"]


def test_a_variant_is_healed_and_scored_from_the_file_alone(script: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    # As a conversion reads it, from a file: what was just exported cannot be pickled.
    write_program(export_model(net.eval(), (torch.randn(2, 3, 8, 8),)), tmp_path / "net.pt2")
    teacher = graph_module(torch.export.load(tmp_path / "net.pt2"))
    gm = replace_sites(teacher, {site.name: stand_in(site, 3, seed=1) for site in find_sites(teacher)[0]})
    test = torch.randn(20, 3, 8, 8).half()
    with torch.no_grad():
        wanted = teacher(test.float()).argmax(1)
    task = {
        "teacher": teacher, "metric": "top1", "test": [test], "inputs": [torch.randn(200, 3, 8, 8).half()],
        "wanted": wanted, "groups": np.arange(20), "pixels_are_classes": False,
    }  # fmt: skip
    record = {"task": "small", "seed": 0, "point": "x2", "gm": gm, "in_order": False}
    path = tmp_path / "variants.pt.gz"
    with gzip.open(path, "wb") as file:
        torch.save({"tasks": {"small": task}, "records": [record]}, file)
    options = SimpleNamespace(device="cpu", seconds=2.0, batch=16, bf16=False)
    threads = torch.get_num_threads()
    try:
        script.heal_one(path, 0, options, tmp_path / "row.json")
    finally:
        torch.set_num_threads(threads)
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["task"], row["metric"]) == ("small", "top1")
    assert row["steps"] > 0
    assert row["best_loss"] < row["start_loss"]
    assert 0 <= row["loss"] <= 1


def test_what_is_kept_of_a_pool_fits(script: ModuleType) -> None:
    pool = (torch.zeros(100, 1, 256, 256), torch.zeros(100, 2, dtype=torch.int64))
    kept = script._within(pool, 2)
    # Half precision: 128 KiB and 16 bytes a sample.
    assert [len(x) for x in kept] == [15, 15]
    assert [x.dtype for x in kept] == [torch.float16, torch.int64]
