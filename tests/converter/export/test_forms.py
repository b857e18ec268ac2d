"""The ONNX, trainable and quantised forms by themselves, and the same bytes in every process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.export.int8 import int8_bytes, open_session, run_onnx
from aslconvert.converter.export.onnx import OPSET, onnx_bytes, recast
from aslconvert.converter.export.verify import verify_dir
from aslconvert.converter.export.write import left_out, program_bytes, write_artifacts
from aslconvert.converter.fit.layerwise import exact_block
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model, load_program
from aslconvert.converter.options import DEFAULT_ARTIFACTS
from aslconvert.converter.passes.replace_sites import replace_sites

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]
ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import sys, json, pathlib, torch
from aslconvert.converter.export.write import write_artifacts
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import load_program
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in
from aslconvert.converter.ir.graph import find_sites

def write(folder, model):
    program = load_program(model)
    gm = graph_module(program)
    gm = replace_sites(gm, {site.name: stand_in(site, 16) for site in find_sites(gm)[0]})
    kinds = ("portable", "fast", "trainable", "onnx", "int8", "weights", "code")
    return {r["path"]: r["sha256"] for r in write_artifacts(folder, gm, program, kinds=kinds)}
"""


def test_the_same_variant_is_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    model = tmp_path / "net.pt2"
    model.write_bytes(program_bytes(export_model(net, (torch.randn(2, 3, 12, 10),))))
    here: dict[str, object] = {}
    exec(SCRIPT, here)
    first = here["write"](tmp_path / "a", str(model))  # type: ignore[operator]
    code = SCRIPT + "\nprint(json.dumps(write(sys.argv[1], sys.argv[2])))"
    command = [sys.executable, "-c", code, str(tmp_path / "b"), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_other_hashes())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == first
    assert len(first) == 7
    for path in (tmp_path / "a").iterdir():
        # Files that go elsewhere do not tell where they were made.
        assert str(ROOT).encode() not in path.read_bytes(), path.name
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def _other_hashes() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "12345"}


def test_a_loaded_program_with_sizes_that_are_multiples_has_an_onnx_form(
    exported: Exported, tmp_path: Path, difference: Callable[[Tensor, Tensor], float]
) -> None:
    model, program = exported("unet")
    path = tmp_path / "unet.pt2"
    path.write_bytes(program_bytes(program))
    data = onnx_bytes(load_program(str(path)))
    file = onnx.load_from_string(data)
    assert [entry.version for entry in file.opset_import if entry.domain == ""] == [OPSET]
    sizes = [size.dim_param or size.dim_value for size in file.graph.input[0].type.tensor_type.shape.dim]
    assert sizes[1] == 3
    assert [str(size).startswith("4*") for size in sizes] == [False, False, True, True]
    session = open_session(data)
    for shape in ((1, 3, 16, 20), (3, 3, 28, 12)):
        x = torch.randn(shape)
        with torch.no_grad():
            assert difference(run_onnx(session, [x], ["x"])[0], model(x)) <= 1e-4


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.bfloat16, 3e-2), (torch.float64, 1e-5), (torch.float16, 1e-2)])
def test_other_types_have_an_onnx_form_that_runs(
    nets: object, dtype: torch.dtype, allowed: float, difference: Callable[[Tensor, Tensor], float]
) -> None:
    model = nets.randomise(nets.UNet(4)).to(dtype)  # type: ignore[attr-defined]
    program = export_model(model, (torch.randn(2, 3, 8, 12).to(dtype),))
    session = open_session(onnx_bytes(program))
    x = torch.randn(3, 3, 12, 16).to(dtype)
    with torch.no_grad():
        assert difference(run_onnx(session, [x], ["x"])[0].double(), model(x).double()) <= allowed
    assert (recast(program) is None) == (dtype == torch.float16)


def test_the_trainable_program_heals_on_in_plain_torch(
    exported: Exported, random_blocks: Callable[[fx.GraphModule], dict[str, Block]], tmp_path: Path
) -> None:
    model, program = exported("demosaicker")
    gm = graph_module(program)
    blocks = random_blocks(gm)
    write_artifacts(tmp_path, replace_sites(gm, blocks), program, kinds=("trainable",))
    student = torch.export.load(tmp_path / "trainable.pt2").module()
    x = torch.randn(4, 3, 24, 32)
    with torch.no_grad():
        target = model(x)
    before = {name: p.detach().clone() for name, p in student.named_parameters() if name.endswith("shift")}
    optimiser = torch.optim.Adam(student.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = nn.functional.mse_loss(student(x), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    moved = [name for name, p in student.named_parameters() if name in before and not torch.equal(p, before[name])]
    assert sorted(moved) == sorted(before)
    assert len(before) == len(blocks) > 10


def test_int8_has_a_scale_a_channel_and_stays_close(exported: Exported) -> None:
    model, program = exported("resnet18")
    data = onnx_bytes(program)
    torch.manual_seed(2)
    batches = [(torch.randn(4, 3, 48, 48),) for _ in range(3)]
    quantised = int8_bytes(data, batches)
    assert quantised == int8_bytes(data, batches)
    graph = onnx.load_from_string(quantised).graph
    scales = {i.name: onnx.numpy_helper.to_array(i).shape for i in graph.initializer if i.name.endswith("_scale")}
    assert any(shape and shape[0] > 1 for shape in scales.values())
    assert any(i.data_type == onnx.TensorProto.INT8 for i in graph.initializer)
    x = torch.randn(2, 3, 56, 40)
    with torch.no_grad():
        expected = model(x)
    given = run_onnx(open_session(quantised), [x], ["x"])[0]
    assert 1e-6 < float((given - expected).norm() / expected.norm()) < 0.15


class Bessel(nn.Module):
    """A function that ONNX does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.conv(x))


def test_what_cannot_be_made_is_left_out_with_its_reason(tmp_path: Path) -> None:
    program = export_model(Bessel(), (torch.randn(2, 3, 8, 8),))
    # Of an earlier conversion into the same folder: it would pass for this one's.
    (tmp_path / "model.onnx").write_bytes(b"another network")
    records = write_artifacts(tmp_path, graph_module(program), program, kinds=("portable", "onnx"))
    assert [record["kind"] for record in records] == ["portable"]
    (reason,) = left_out(tmp_path).values()
    assert "bessel" in reason
    assert not (tmp_path / "model.onnx").exists()


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.other = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3))
        return torch.cond(y.mean() > 0, self.one, self.other, (y,))


def test_branches_are_code_too_and_not_left_to_aotinductor(tmp_path: Path) -> None:
    program = export_model(Branches().eval(), (torch.randn(2, 3, 8, 8),))
    gm = graph_module(program)
    blocks = {site.name: exact_block(gm, site) for site in find_sites(gm)[0]}
    write_artifacts(tmp_path, replace_sites(gm, blocks), program, kinds=("code", "aoti"))
    assert "branches" in left_out(tmp_path)["aoti"]
    assert "code" in {result["kind"] for result in verify_dir(tmp_path)}


def test_the_default_is_every_kind_that_is_quick_and_exact() -> None:
    assert not {"int8", "aoti"} & set(DEFAULT_ARTIFACTS)
