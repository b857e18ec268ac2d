import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.errors import UsageError, VerificationFailed
from aslconvert.converter.export.kinds import KINDS
from aslconvert.converter.export.reexport import reexport_like
from aslconvert.converter.export.verify import check_dir, verify_dir
from aslconvert.converter.export.write import program_bytes, write_artifacts, write_program
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.dims import dynamic_axes
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import load_program
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.replace_sites import replace_sites

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]
Blocks = Callable[..., dict[str, Block]]
KINDS_HERE = ("portable", "fast", "trainable", "onnx", "int8", "weights", "code")
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
Written = tuple[Path, fx.GraphModule, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def written(exported: Exported, random_blocks: Blocks, tmp_path_factory: pytest.TempPathFactory) -> Written:
    program = exported("unet")[1]
    gm = graph_module(program)
    converted = replace_sites(gm, random_blocks(gm))
    folder = tmp_path_factory.mktemp("artifacts")
    return folder, converted, write_artifacts(folder, converted, program, kinds=KINDS_HERE)


@pytest.fixture
def copied(written: Written, tmp_path: Path) -> Path:
    shutil.copytree(written[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_every_artifact_is_reloaded_in_a_fresh_process_and_agrees(written: Written) -> None:
    folder, _, records = written
    assert [record["kind"] for record in records] == [kind for kind in KINDS if kind in KINDS_HERE]
    before = sorted(folder.rglob("*"))
    results = verify_dir(folder)
    # Not even bytecode of the code that was loaded.
    assert sorted(folder.rglob("*")) == before
    assert [result["path"] for result in results] == [record["path"] for record in records]
    assert all(result["reloaded"] and result["max_abs_diff"] <= result["tolerance"] for result in results)
    checks = {result["kind"]: set(result["checks"]) for result in results}
    assert checks["portable"] == checks["code"] - {"aslconvert's kernels"} == {"torch"}
    assert checks["fast"] == checks["trainable"] == {"aslconvert's kernels"}
    assert checks["code"] == {"torch", "aslconvert's kernels"}
    notes = {result["kind"]: " ".join(result["notes"]) for result in results}
    for kind in ("onnx", "int8"):
        assert checks[kind] == {"onnxruntime", "openvino"} if HAS_OPENVINO else "not checked in OpenVINO" in notes[kind]
    assert "10 of them shifts" in notes["trainable"]
    assert "relative L2 distance" in notes["int8"]
    manifest = json.loads((folder / "artifacts.json").read_text())
    sizes = [load_file(folder / "check.safetensors")[f"case{case}.input0"].shape for case in range(2)]
    assert len(manifest["check"]["cases"]) == 2
    assert sizes[0][0] != sizes[1][0]
    assert sizes[0][2:] != sizes[1][2:], "the second case has another batch and image size"


def test_the_portable_program_runs_at_new_sizes_and_keeps_its_ranges(
    written: Written, difference: Callable[[Tensor, Tensor], float]
) -> None:
    folder, converted, _ = written
    program = load_program(str(folder / "portable.pt2"))
    assert dynamic_axes(program) == {"x": (0, 2, 3)}
    x = torch.randn(5, 3, 44, 28)
    with torch.no_grad():
        assert difference(program.module()(x), converted(x)) <= 1e-5
    with pytest.raises(AssertionError, match="Guard failed"):
        program.module()(torch.randn(5, 3, 43, 28))


def test_the_onnx_file_runs_at_two_sizes(written: Written, difference: Callable[[Tensor, Tensor], float]) -> None:
    folder, converted, _ = written
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 32, 32), (3, 3, 20, 44)):
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        (y,) = session.run(None, {"x": x})
        with torch.no_grad():
            assert difference(torch.from_numpy(y), converted(torch.from_numpy(x))) <= 1e-4


def test_the_weights_go_by_the_original_names(written: Written, exported: Exported) -> None:
    folder, converted, _ = written
    weights = load_file(folder / "weights.safetensors")
    assert set(weights) == set(converted.state_dict())
    assert set(exported("unet")[0].state_dict()) <= set(weights)


def test_what_is_missing_changed_or_off_is_named(copied: Path) -> None:
    manifest = json.loads((copied / "artifacts.json").read_text())
    (copied / "model.onnx").unlink()
    with (copied / "portable.pt2").open("r+b") as file:
        (byte,) = file.read(1)
        file.seek(0)
        file.write(bytes([byte ^ 0xFF]))
    (copied / "model.py").write_text("raise SystemError('broken')")
    # A wrong answer with the right hash: the stored expectation is another one.
    check = load_file(copied / "check.safetensors")
    check["case1.output0"] += 1
    save_file(check, copied / "check.safetensors")
    manifest["check"]["sha256"] = hashlib.sha256((copied / "check.safetensors").read_bytes()).hexdigest()
    (copied / "artifacts.json").write_text(json.dumps(manifest))
    found = {result["kind"]: result["code"] for result in check_dir(copied)}
    assert found == {
        "portable": "artifact_changed",
        "fast": "artifact_differs",
        "trainable": "artifact_differs",
        "onnx": "artifact_missing",
        "int8": "artifact_differs",
        "weights": "",
        "code": "artifact_changed",
    }


def test_a_broken_artifact_fails_the_verification(copied: Path) -> None:
    manifest = json.loads((copied / "artifacts.json").read_text())
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["kind"] == "fast"]
    (copied / "artifacts.json").write_text(json.dumps(manifest))
    (copied / "fast.pt2").unlink()
    with pytest.raises(VerificationFailed, match=r"'fast\.pt2' is missing") as failure:
        verify_dir(copied)
    assert failure.value.exit_code == 6


def test_a_folder_without_artifacts_is_told(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(UsageError) as failure:
        verify_dir(tmp_path)
    assert failure.value.code == "no_artifacts"
    (copied / "artifacts.json").write_text("{}")
    with pytest.raises(VerificationFailed) as damaged:
        verify_dir(copied)
    assert damaged.value.code == "bad_manifest"


def test_writing_is_quiet(exported: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = exported("demosaicker")[1]
    write_artifacts(tmp_path, graph_module(program), program, kinds=("onnx",))
    write_program(program, tmp_path / "original.pt2")
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "artifacts.json",
        "check.safetensors",
        "model.onnx",
        "original.pt2",
    ]


@pytest.mark.parametrize("name", ["resnet18", "odd"])
def test_a_converted_graph_is_exported_saved_and_loaded_with_its_sizes(
    exported: Exported,
    random_blocks: Blocks,
    difference: Callable[[Tensor, Tensor], float],
    tmp_path: Path,
    name: str,
) -> None:
    program = exported(name)[1]
    gm = graph_module(program)
    converted = replace_sites(gm, random_blocks(gm))
    path = tmp_path / "converted.pt2"
    path.write_bytes(program_bytes(reexport_like(fold_batch_norm(converted), program)))
    again = load_program(str(path))
    assert dynamic_axes(again) == dynamic_axes(program)
    x = torch.randn(3, 3, 61, 77)
    with torch.no_grad():
        assert difference(again.module()(x), converted(x)) <= 1e-5
