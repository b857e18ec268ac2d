from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from aslconvert.converter.data.arrays import open_arrays
from aslconvert.converter.data.inputs import InputSpec
from aslconvert.converter.data.load import load_dataset
from aslconvert.converter.errors import UsageError

Arrays = dict[str, np.ndarray[Any, Any]]
IMAGE = InputSpec("image", (None, 3, 8, 8), torch.float32)


def _arrays(samples: int = 24, **more: Any) -> Arrays:
    rng = np.random.default_rng(0)
    return {"image": rng.random((samples, 3, 8, 8), dtype=np.float32), **more}


def _save_npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def _save_compressed(path: Path, arrays: Arrays) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def _save_safetensors(path: Path, arrays: Arrays) -> Path:
    save_file(arrays, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def _code(spec: Path | str, **options: Any) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        load_dataset(str(spec), **options)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize("save", [_save_npz, _save_compressed, _save_safetensors])
def test_arrays_come_back_as_they_were_stored(tmp_path: Path, save: Callable[[Path, Arrays], Path]) -> None:
    arrays = _arrays(label=np.arange(24), target=np.zeros((24, 2), np.float64))
    data = load_dataset(str(save(tmp_path / "data", arrays))).for_model([IMAGE])
    seen = []
    for name in ("calibrate", "heal", "validate", "test"):
        subset = data.split(name)
        for batch in subset.batches(5):
            assert batch.label is not None
            assert batch.target is not None
            assert batch.target.shape[1:] == (2,)
            index = batch.label.numpy()
            np.testing.assert_array_equal(batch.inputs[0].numpy(), arrays["image"][index])
            seen += index.tolist()
    assert sorted(seen) == list(range(24))


def test_plain_arrays_are_mapped_not_read(tmp_path: Path) -> None:
    fortran = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    for path in (
        _save_npz(tmp_path / "a", {"x": fortran}),
        _save_safetensors(tmp_path / "b", {"x": fortran.copy("C")}),
    ):
        array = open_arrays(path)["x"]
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, fortran)


def test_the_split_array_wins_and_its_crossings_are_told(tmp_path: Path) -> None:
    split = np.arange(24) % 4
    data = load_dataset(str(_save_npz(tmp_path / "a", _arrays(split=split, group=np.arange(24) // 6))))
    np.testing.assert_array_equal(data.splits, split)
    assert "4 groups or duplicates lie in more than one split" in data.notes[0]
    assert data.samples_by_split == {"calibrate": 6, "heal": 6, "validate": 6, "test": 6}


def test_groups_stay_in_one_split(tmp_path: Path) -> None:
    group = np.array([f"photo-{i % 6}" for i in range(24)])
    data = load_dataset(str(_save_npz(tmp_path / "a", _arrays(group=group))))
    for name in set(group.tolist()):
        assert len(set(data.splits[group == name].tolist())) == 1
    assert sum(data.groups_by_split.values()) == 6


def test_a_few_samples_cover_many_groups(tmp_path: Path) -> None:
    arrays = _arrays(group=np.repeat(np.arange(8), 3), split=np.array([0, 1, 2, *[3] * 21]))
    subset = load_dataset(str(_save_npz(tmp_path / "a", arrays))).split("test")
    assert len(set(subset.take(7).groups.tolist())) == 7
    assert len(subset.take(1000)) == 21


def test_a_few_samples_of_data_stored_class_by_class_show_every_class(tmp_path: Path) -> None:
    label = np.repeat(np.arange(6), 40)
    arrays = {"image": np.random.default_rng(0).random((240, 3, 2, 2), dtype=np.float32), "label": label}
    subset = load_dataset(str(_save_npz(tmp_path / "a", {**arrays, "split": np.r_[0:3, [3] * 237]})))
    test = subset.split("test")
    few = test.take(60)
    # In one of ten thousand orders one of six classes would be missing from sixty; this order is always the same.
    assert len(np.unique(label[few.indices])) == 6
    assert len(np.unique(label[few.indices][:30])) > 3
    assert few.indices.tolist() == test.take(60).indices.tolist()
    assert sorted(test.take(1000).indices.tolist()) == test.indices.tolist()


def test_shuffling_is_repeatable_and_complete(tmp_path: Path) -> None:
    subset = load_dataset(str(_save_npz(tmp_path / "a", _arrays()))).split("heal")
    first, again = ([int(g) for b in subset.batches(4, seed=3) for g in b.groups] for _ in range(2))
    assert first == again != subset.groups.tolist()
    assert sorted(first) == sorted(subset.groups.tolist())
    assert all(len(b.groups) == 4 for b in subset.batches(4, drop_last=True))


def test_declared_preparation_is_applied_to_inputs_only(tmp_path: Path) -> None:
    pixels = np.full((8, 3, 8, 8), 255, np.uint8)
    pixels[:, 0, 0, 0] = np.arange(8)
    path = _save_npz(tmp_path / "a", {"image": pixels, "target": np.ones((8, 1), np.float32)})
    data = load_dataset(str(path), scale=1 / 255, mean=(0.5,), std=(0.25,)).for_model([IMAGE])
    batch = data.split("heal").batch([0])
    assert batch.inputs[0].dtype == torch.float32
    assert float(batch.inputs[0][0, 1, 1, 1]) == pytest.approx(2.0)
    assert batch.target is not None
    assert float(batch.target) == 1.0
    assert data.preprocessing == "scaled by 1/255, minus mean [0.5], over std [0.25]"


def test_a_data_toml_beside_the_file_declares_too(tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text("scale = 2\nmean = [1.0]\n")
    path = _save_npz(tmp_path / "a", _arrays())
    assert load_dataset(str(path)).preprocessing == "scaled by 2, minus mean [1.0]"
    assert load_dataset(str(path), scale=3.0).preprocessing == "scaled by 3, minus mean [1.0]"
    (tmp_path / "data.toml").write_text("skale = 2\n")
    assert _code(path)[0] == "preprocess"
    (tmp_path / "data.toml").write_text("scale = 'much'\n")
    assert _code(path)[0] == "preprocess"


def test_the_model_gets_its_inputs_in_its_order_and_types(tmp_path: Path) -> None:
    arrays = {"b": np.zeros((8, 2), np.float64), "a": np.arange(8)[:, None].astype(np.int32), "spare": np.zeros((8, 1))}
    data = load_dataset(str(_save_npz(tmp_path / "a", arrays)))
    specs = [InputSpec("a", (None, 1), torch.int64), InputSpec("b", (None, None), torch.float32)]
    fitted = data.for_model(specs)
    batch = fitted.split("heal").batch([0, 1])
    assert [x.dtype for x in batch.inputs] == [torch.int64, torch.float32]
    assert [tuple(x.shape) for x in batch.inputs] == [(2, 1), (2, 2)]
    assert fitted.notes[-1] == "arrays not used by the model: spare"


def test_missing_inputs_and_wrong_shapes_name_both_sides(tmp_path: Path) -> None:
    data = load_dataset(str(_save_npz(tmp_path / "a", _arrays())))
    with pytest.raises(UsageError, match="gives image; the model wants picture") as caught:
        data.for_model([InputSpec("picture", (None, 3, 8, 8), torch.float32)])
    assert caught.value.code == "data_missing_input"
    with pytest.raises(UsageError, match=r"\[batch, 3, 8, 8\], the model wants image \[\*, 1, \*, \*\]") as caught:
        data.for_model([InputSpec("image", (None, 1, None, None), torch.float32)])
    assert caught.value.code == "data_shape"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_located_and_counted(tmp_path: Path, value: float) -> None:
    arrays = _arrays()
    arrays["image"][5, 2, 0, 7] = value
    arrays["image"][9] = value
    code, message = _code(_save_npz(tmp_path / "a", arrays))
    assert code == "data_nan"
    assert "image holds 193 values that are NaN or infinite, the first at [5, 2, 0, 7]" in message


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"label": np.arange(4)}, "data_missing_input"),
        ({"image": np.zeros((4, 1)), "target": np.zeros((3, 1))}, "data_shape"),
        ({"image": np.zeros((0, 1))}, "data_empty"),
        ({"image": np.float32(1)}, "data_shape"),
        ({"image": np.array(["a", "b"])}, "data_broken"),
        ({"image": np.zeros((2, 1))}, "too_few_samples"),
        ({"image": np.eye(4), "split": np.array([0, 1, 2, 4])}, "data_shape"),
        ({"image": np.eye(4), "split": np.array([0, 1, 2, 2])}, "too_few_samples"),
        ({"image": np.eye(4), "label": np.zeros(4)}, "data_shape"),
        ({"image": np.eye(4), "group": np.zeros((4, 2))}, "data_shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: Arrays, code: str) -> None:
    assert _code(_save_npz(tmp_path / "a", arrays))[0] == code


def test_big_endian_arrays_are_turned(tmp_path: Path) -> None:
    path = _save_npz(tmp_path / "a", {"image": np.eye(8, dtype=">f4")})
    batch = load_dataset(str(path)).split("heal").batch([0])
    assert float(batch.inputs[0].sum()) == 1.0


def test_unknown_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    assert "none of" in _code(tmp_path / "data.csv")[1]
    assert _code(tmp_path / "nothing.npz")[0] == "data_not_found"


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, image=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def _lying_npz() -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**6,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image.npy", head.getvalue() + b"\0" * 8)
    return buffer.getvalue()


def _lying_safetensors(**entry: Any) -> bytes:
    header = json.dumps({"image": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **entry}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 16


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", b"not a zip"),
        ("a.npz", _pickled()),
        ("a.npz", _lying_npz()),
        ("a.safetensors", b""),
        ("a.safetensors", struct.pack("<Q", 2**60)),
        ("a.safetensors", _lying_safetensors(shape=[400])),
        ("a.safetensors", _lying_safetensors(shape=[400], data_offsets=[0, 1600])),
        ("a.safetensors", _lying_safetensors(dtype="BF16")),
        ("a.safetensors", _lying_safetensors()[:-8]),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert _code(tmp_path / name)[0] == "data_broken"


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_damage_anywhere_in_a_file_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    arrays = {"x": np.random.default_rng(0).random((12, 3, 4, 4), dtype=np.float32)}
    if name == "a.npz":
        np.savez_compressed(path, **arrays)
    else:
        save_file(arrays, path)
    whole = path.read_bytes()
    codes = []
    for at in (*range(130), *range(130, len(whole), 37)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            open_arrays(path)
        except UsageError as error:
            codes.append(error.code)
    assert set(codes) == {"data_broken"}
    (tmp_path / "list.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]")
    with pytest.raises(UsageError) as caught:
        open_arrays(tmp_path / "list.safetensors")
    assert caught.value.code == "data_broken"
