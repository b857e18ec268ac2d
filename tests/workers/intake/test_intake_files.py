"""The other kinds: what is taken comes out as it was, and what is told of the rest is right."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import corpus_others
import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from aslconvert.workers.intake.codes import CODES
from aslconvert.workers.intake.datasets import check_data, unpack_data
from aslconvert.workers.intake.files import Rebuilt
from aslconvert.workers.intake.kinds import Kind, identify
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.onnx_file import allowed, rebuild_onnx
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.intake.safetensors_file import rebuild_safetensors
from aslconvert.workers.intake.vet import vet


def written(folder: Path, content: bytes, name: str = "in") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_an_onnx_model_computes_the_same(tmp_path: Path) -> None:
    source = written(tmp_path, corpus_others.model())
    rebuilt = rebuild_onnx(source, tmp_path / "out.onnx")
    again = rebuild_onnx(source, tmp_path / "again.onnx")
    assert rebuilt.path.read_bytes() == again.path.read_bytes()
    assert dict(rebuilt.operators) == {"Conv": 1, "Relu": 1}
    onnx.checker.check_model(rebuilt.path, full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8), dtype=np.float32)
    before, after = (
        onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for p in (source, rebuilt.path)
    )
    assert before.tobytes() == after.tobytes()


def test_notes_and_metadata_of_an_onnx_model_are_left_out(tmp_path: Path) -> None:
    def note(model: onnx.ModelProto) -> None:
        model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "/home/someone/secret.py"
        model.metadata_props.add(key="k", value="/home/someone/secret.py")
        model.graph.value_info.add(name="/home/someone/secret.py")

    rebuilt = rebuild_onnx(written(tmp_path, corpus_others.model(note)), tmp_path / "out.onnx")
    assert b"secret" not in rebuilt.path.read_bytes()


def test_the_operators_of_onnx_are_the_converters(tmp_path: Path) -> None:
    # Loading the families registers their operators.
    from aslconvert.converter.importers.onnx import load  # noqa: F401
    from aslconvert.converter.importers.onnx.file import NEWEST, OLDEST
    from aslconvert.converter.importers.onnx.registry import known_operators
    from aslconvert.workers.intake import onnx_file

    assert sorted(allowed()) == known_operators()
    assert (onnx_file.OLDEST, onnx_file.NEWEST) == (OLDEST, NEWEST)


def test_safetensors_are_the_same(tmp_path: Path) -> None:
    tensors = {
        "a.b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "c": np.array([True, False]),
        "n": np.zeros((0, 4), np.int8),
    }
    save_file(tensors, tmp_path / "in", metadata={"path": "/home/someone"})
    rebuilt = rebuild_safetensors(tmp_path / "in", tmp_path / "out")
    assert rebuilt.tensors == 3
    loaded = load_file(tmp_path / "out")
    assert all((loaded[name] == tensors[name]).all() and loaded[name].dtype == tensors[name].dtype for name in tensors)
    assert b"someone" not in (tmp_path / "out").read_bytes()
    again = rebuild_safetensors(tmp_path / "out", tmp_path / "again")
    assert again.path.read_bytes() == rebuilt.path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 8, b"\x40" + bytes(7) + b"{}"])
def test_a_file_shorter_than_its_header_is_damaged(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        rebuild_safetensors(written(tmp_path, content), tmp_path / "out")
    assert refused.value.code == "safetensors_damaged"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_the_same(save: object, tmp_path: Path) -> None:
    arrays = {
        "image": np.random.default_rng(0).standard_normal((4, 3, 5, 5), dtype=np.float32),
        "fortran": np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
        "label": np.arange(4), "flag": np.array(True), "empty": np.zeros((0, 3), np.float16),
    }  # fmt: skip
    file = io.BytesIO()
    save(file, **arrays)  # type: ignore[operator]
    summary = unpack_data(written(tmp_path, file.getvalue()), tmp_path / "out")
    assert (summary.kind, summary.arrays) == (Kind.NPZ, 5)
    with np.load(tmp_path / "out" / "arrays.npz", allow_pickle=False) as loaded:
        for name, array in arrays.items():
            assert loaded[name].dtype == array.dtype
            assert loaded[name].tobytes(order="A") == array.tobytes(order="A")
            assert loaded[name].shape == array.shape
    again = unpack_data(written(tmp_path, file.getvalue()), tmp_path / "again")
    assert again == summary
    assert (tmp_path / "out" / "arrays.npz").read_bytes() == (tmp_path / "again" / "arrays.npz").read_bytes()


def test_names_of_groups_come_through_and_other_numbers_do_not(tmp_path: Path) -> None:
    groups = np.array(["china", "Müller", "\U0001f600"])
    source = tmp_path / "in.npz"
    np.savez(source, input=np.zeros((3, 2), np.float32), group=groups)
    unpack_data(source, tmp_path / "good")
    with np.load(tmp_path / "good" / "arrays.npz") as arrays:
        assert arrays["group"].tolist() == groups.tolist()
    for wrong in (0x110000, 0xD800, 0xFFFFFFFF):
        np.savez(source, group=np.array([1, wrong], np.uint32).view("<U1"))
        with pytest.raises(Refused, match="no character"):
            unpack_data(source, tmp_path / f"bad{wrong}")
    np.savez(source, group=np.array(["x" * 100]))
    with pytest.raises(Refused, match="element type"):
        unpack_data(source, tmp_path / "long")


def test_images_lie_as_in_the_archive_and_broken_ones_are_counted(tmp_path: Path) -> None:
    parts = {
        "cats/1.png": corpus_others.png(), "cats/2.png": b"broken", "dogs/3.png": corpus_others.huge_png(12_000),
        "dogs/5.png": corpus_others.huge_png(60_000),
        "dogs/4.png": corpus_others.png(8, 8), "data.toml": b"size = [4, 4]\n", "run.py": b"import os",
        "dogs/4.cls": b" 12\n",
    }  # fmt: skip
    for name, content in (("zip", corpus_others.zipped(parts)), ("tar", corpus_others.tarred(list(parts.items())))):
        source = written(tmp_path, content, name)
        summary = unpack_data(source, tmp_path / f"out-{name}")
        found = {
            str(p.relative_to(tmp_path / f"out-{name}")) for p in (tmp_path / f"out-{name}").rglob("*") if p.is_file()
        }
        assert found == {"cats/1.png", "dogs/4.png", "dogs/4.cls", "data.toml"}
        assert (tmp_path / f"out-{name}" / "dogs/4.cls").read_bytes() == b"12"
        assert (summary.images, summary.broken, summary.left_out) == (2, 3, 1)
        assert summary.broken_names == (
            ("'cats/2.png'", "it cannot be read"),
            ("'dogs/3.png'", "12000x12000 pixels, 100000000 are the most"),
            ("'dogs/5.png'", "over 100000000 pixels"),
        )
        assert check_data(source) == summary


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(data_bytes=100), "archive_too_large"),
        (Limits(data_entries=1, entries=1), "archive_entries"),
        (Limits(data_file_bytes=10, file_bytes=10), "file_too_large"),
        (Limits(pixels=10), "data_all_broken"),
    ],
)
def test_limits_hold(limits: Limits, code: str, tmp_path: Path) -> None:
    parts = {"1.png": corpus_others.png(), "2.png": corpus_others.png()}
    for content in (corpus_others.zipped(parts), corpus_others.tarred(list(parts.items()))):
        with pytest.raises(Refused) as refused:
            check_data(written(tmp_path, content), limits=limits)
        assert refused.value.code == code


def test_a_kind_is_told_by_content(tiny: Path, tmp_path: Path) -> None:
    save_file({"a": np.zeros(3)}, tmp_path / "s")
    kinds = {
        Kind.PT2: tiny.read_bytes(), Kind.ONNX: corpus_others.model(),
        Kind.SAFETENSORS: (tmp_path / "s").read_bytes(),
        Kind.NPZ: corpus_others.npz(x=np.zeros(2)),
        Kind.IMAGES_ZIP: corpus_others.zipped({"a.png": corpus_others.png()}),
        Kind.IMAGES_TAR: corpus_others.tarred([("a.png", corpus_others.png())]),
    }  # fmt: skip
    for kind, content in kinds.items():
        assert identify(written(tmp_path, content, "misleading.onnx")) is kind


def test_no_length_of_a_header_makes_safetensors_something_else(tmp_path: Path) -> None:
    for length in (*range(64, 1600, 8), int.from_bytes(b"PK", "little")):
        header = b'{"conv.weight":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'.ljust(length)
        assert identify(written(tmp_path, length.to_bytes(8, "little") + header)) is Kind.SAFETENSORS, length


def test_the_door_rebuilds_what_it_is_asked_for(tiny: Path, tmp_path: Path) -> None:
    rebuilt = vet(tiny, tmp_path / "out.pt2", kind="model")
    assert isinstance(rebuilt, Rebuilt)
    assert rebuilt.size == rebuilt.path.stat().st_size
    with pytest.raises(ValueError, match="kind is"):
        vet(tiny, tmp_path / "out", kind="evil")
    with pytest.raises(Refused) as refused:
        vet(tmp_path / "nowhere", tmp_path / "out", kind="model")
    assert refused.value.code == "file_unreadable"
    assert refused.value.kind == "user"


def test_a_refusal_crosses_processes() -> None:
    refused = Refused("name_invalid", "It is none.", entry="x[3]", hint="Do so.")
    again = pickle.loads(pickle.dumps(refused))
    assert (again.code, again.message, again.entry, again.hint) == ("name_invalid", "It is none.", "x[3]", "Do so.")
    assert str(again) == str(refused) == "[name_invalid] x[3]: It is none. Do so."


def test_a_code_that_nobody_wrote_down_is_an_error() -> None:
    with pytest.raises(KeyError):
        Refused("no_such_code", "It is nothing.")
    assert "no_such_code" not in CODES
