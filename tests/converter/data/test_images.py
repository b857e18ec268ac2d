from __future__ import annotations

import gc
import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aslconvert.converter.data import archive, images
from aslconvert.converter.data.images import LazyImages, read_image_folder
from aslconvert.converter.data.inputs import InputSpec
from aslconvert.converter.data.load import load_dataset
from aslconvert.converter.data.preprocess import Preprocess
from aslconvert.converter.errors import UsageError

SPEC = InputSpec("x", (None, 3, 6, 8), torch.float32)


def _picture(seed: int, size: tuple[int, int] = (6, 8)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def _folder(root: Path, *, classes: tuple[str, ...] = ("",), each: int = 6) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            _picture(100 * number + i).save(root / name / f"{i:02}.png")
    return root


def _code(spec: Path, **options: Any) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        load_dataset(str(spec), **options)
    return caught.value.code, str(caught.value)


def test_images_are_scaled_as_declared_and_told(tmp_path: Path) -> None:
    data = load_dataset(str(_folder(tmp_path))).for_model([SPEC])
    assert data.preprocessing == "channels rgb, scaled by 1/255"
    assert data.label is None
    first = int(np.flatnonzero(data.splits == 1)[0])
    want = np.asarray(_picture(first)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(data.split("heal").batch([0]).inputs[0][0].numpy(), want, atol=1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
def test_subfolders_are_classes(tmp_path: Path, wrapped: bool) -> None:
    _folder(tmp_path / "wrap" if wrapped else tmp_path, classes=("dog", "cat"))
    data = load_dataset(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.label is not None
    assert data.label.read(np.arange(12)).tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize(("channels", "shape"), [("gray", (1, 6, 8)), ("bgr", (3, 6, 8))])
def test_channels_are_ordered(tmp_path: Path, channels: Any, shape: tuple[int, ...]) -> None:
    column = load_dataset(str(_folder(tmp_path)), channels=channels, scale=1.0).inputs[""]
    assert column.shape == shape
    if channels == "bgr":
        want = np.asarray(_picture(0))[..., ::-1].transpose(2, 0, 1)
        np.testing.assert_array_equal(column.read(np.array([0]))[0].numpy(), want)


def test_size_covers_and_crops(tmp_path: Path) -> None:
    _folder(tmp_path)
    _picture(9, (40, 10)).save(tmp_path / "tall.png")
    assert load_dataset(str(tmp_path), size=(5, 4)).inputs[""].shape == (3, 5, 4)
    code, message = _code(tmp_path)
    assert code == "data_shape"
    assert "10x40" in message
    assert "--size" in message


def test_a_wrong_mean_shows_at_once(tmp_path: Path) -> None:
    assert _code(_folder(tmp_path), mean=(0.1, 0.2))[0] == "data_shape"


def test_broken_images_are_counted_and_all_broken_is_an_error(tmp_path: Path) -> None:
    _folder(tmp_path)
    whole = (tmp_path / "00.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("hello")
    assert "2 of 8 images could not be read: cut.png, text.jpg" in load_dataset(str(tmp_path)).notes
    for path in tmp_path.iterdir():
        path.write_bytes(b"\x89PNG")
    assert _code(tmp_path)[0] == "data_broken"


def test_a_decompression_bomb_is_a_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder(tmp_path)
    Image.new("L", (500, 500)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100_000)
    assert any("bomb.png" in note for note in load_dataset(str(tmp_path), size=(6, 8)).notes)


def test_an_image_beyond_pillows_own_limit_is_a_broken_image_too(tmp_path: Path) -> None:
    _folder(tmp_path)
    header = struct.pack(">4sIIBBBBB", b"IHDR", 20000, 20000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    assert any("huge.png" in note for note in load_dataset(str(tmp_path), size=(6, 8)).notes)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_images_of_more_than_eight_bits_are_not_clipped(tmp_path: Path, dtype: Any) -> None:
    _folder(tmp_path)
    Image.fromarray(np.arange(48).reshape(6, 8).astype(dtype)).save(tmp_path / "deep.tiff")
    (note,) = load_dataset(str(tmp_path)).notes
    assert "deep.tiff (more than 8 bits" in note


def test_copies_are_told_and_share_a_split(tmp_path: Path) -> None:
    _folder(tmp_path)
    _picture(0).save(tmp_path / "copy.bmp")
    data = load_dataset(str(tmp_path))
    assert data.notes == ("1 samples repeat another; copies share a split",)
    assert data.splits[0] == data.splits[6]


def test_large_folders_are_thinned_by_hash_and_read_lazily(tmp_path: Path) -> None:
    _folder(tmp_path)
    held = read_image_folder(tmp_path, Preprocess(channels="rgb"), max_samples=4)
    lazy = read_image_folder(tmp_path, Preprocess(channels="rgb"), max_samples=4, memory_bytes=100)
    assert isinstance(lazy.column, LazyImages)
    assert held.notes == lazy.notes == ("4 of 6 images taken, by content hash",)
    every = np.arange(4)
    torch.testing.assert_close(held.column.read(every), lazy.column.read(every))


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    assert _code(tmp_path)[0] == "data_empty"


def _zip(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(folder.rglob("*.png")):
            out.write(file, file.relative_to(folder.parent))
    return path


def _tar(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as out:
        out.add(folder, folder.name)
    return path


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_archives_read_like_folders(tmp_path: Path, pack: Any) -> None:
    folder = _folder(tmp_path / "pets", classes=("cat", "dog"))
    path = pack(tmp_path / ("pets.zip" if pack is _zip else "pets.tar.gz"), folder)
    data, plain = load_dataset(str(path)), load_dataset(str(folder))
    assert data.classes == plain.classes
    np.testing.assert_array_equal(data.splits, plain.splits)


def test_the_unpacked_folder_goes_with_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _zip(tmp_path / "a.zip", _folder(tmp_path / "pets"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    data = load_dataset(str(path)).for_model([SPEC])
    assert any(scratch.iterdir())
    del data
    gc.collect()
    assert not any(scratch.iterdir())


def _tar_with(path: Path, name: str, **fields: Any) -> Path:
    with tarfile.open(path, "w") as out:
        entry = tarfile.TarInfo(name)
        for key, value in fields.items():
            setattr(entry, key, value)
        out.addfile(entry, io.BytesIO(b""))
    return path


@pytest.mark.parametrize("name", ["/etc/evil.png", "../evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png"])
def test_unsafe_paths_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(name, b"")
    assert _code(path)[0] == "data_archive"
    assert not list(tmp_path.rglob("evil.png"))
    assert _code(_tar_with(tmp_path / "b.tar", name))[0] == "data_archive"


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)):
        path = _tar_with(tmp_path / f"{number}.tar", "a.png", type=kind, linkname="/etc/passwd")
        assert _code(path)[0] == "data_archive"


def test_archives_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.png", b"\0" * 5_000_000)
        out.writestr("b.png", b"")
    into = tmp_path / "into"
    with pytest.raises(UsageError, match="unpacks to over"):
        archive.unpack(path, into, max_total_bytes=1_000_000)
    with pytest.raises(UsageError, match="more than 1 entries"):
        archive.unpack(path, into, max_entries=1)
    path.write_bytes(b"PK\x03\x04 nonsense")
    assert _code(path)[0] == "data_archive"
    (tmp_path / "bad.tar").write_bytes(b"nonsense")
    assert _code(tmp_path / "bad.tar")[0] == "data_archive"


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
def test_damage_anywhere_in_an_archive_is_told(tmp_path: Path, kind: str) -> None:
    folder, path = _folder(tmp_path / "in"), tmp_path / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for file in folder.iterdir():
                out.writestr(file.name, file.read_bytes())
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as out:
            out.add(folder, arcname="in")
    whole = path.read_bytes()
    codes = []
    for at in range(4, len(whole), max(len(whole) // 40, 1)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            archive.unpack(path, tmp_path / f"into{at}")
        except UsageError as error:
            codes.append(error.code)
    assert set(codes) == {"data_archive"}
