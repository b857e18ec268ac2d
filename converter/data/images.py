"""Reads a folder of images, with optional class subfolders, into a column of equally sized pictures."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aslconvert.converter.data.columns import Array, Column, Indices
from aslconvert.converter.data.preprocess import Channels, Preprocess
from aslconvert.converter.errors import UsageError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
# Four times a 24-megapixel photo; beyond it a small file may unfold to more memory than the machine has.
MAX_PIXELS = 100_000_000
MAX_SAMPLES = 20_000
MEMORY_BYTES = 2 << 30
_NAMED_BROKEN = 5


@dataclass(frozen=True)
class LazyImages:
    """Pictures decoded at each read: the column of data too large to be held."""

    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    preprocess: Preprocess
    dtype: torch.dtype = torch.uint8

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Indices) -> Tensor:
        return torch.from_numpy(np.stack([decode(self.paths[i], self.preprocess) for i in indices]))


@dataclass(frozen=True)
class HeldImages:
    """Pictures decoded once and held as bytes."""

    pixels: Array  # [N, C, H, W] uint8
    dtype: torch.dtype = torch.uint8

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Indices) -> Tensor:
        return torch.from_numpy(self.pixels[indices])


@dataclass(frozen=True)
class ImageFolder:
    """The readable images of a folder, sorted by path; ``labels`` is None without class subfolders."""

    column: Column
    hashes: tuple[str, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def read_image_folder(
    root: Path, preprocess: Preprocess, *, max_samples: int = MAX_SAMPLES, memory_bytes: int = MEMORY_BYTES
) -> ImageFolder:
    """Decode every image below ``root`` once; class names are the subfolders when all images lie in one each.

    Past ``max_samples`` images, those with the smallest content hash are taken; the choice is the same in every run.

    Raises:
        UsageError: ``data_empty``, ``data_broken`` when none can be read, ``data_shape`` when sizes differ and none
            was declared.
    """
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not found:
        raise UsageError("data_empty", f"No images found in {root.name}; looked for {', '.join(sorted(EXTENSIONS))}.")
    notes: list[str] = []
    paths = found
    if len(found) > max_samples:
        paths = sorted(sorted(found, key=_file_hash)[:max_samples])
        notes.append(f"{max_samples} of {len(found)} images taken, by content hash")
    kept, hashes, pixels, shape, broken = _decode_all(paths, preprocess, memory_bytes)
    if broken:
        named = ", ".join(broken[:_NAMED_BROKEN]) + (", ..." if len(broken) > _NAMED_BROKEN else "")
        notes.append(f"{len(broken)} of {len(paths)} images could not be read: {named}")
    if not kept:
        raise UsageError("data_broken", f"None of the {len(paths)} images in {root.name} can be read: {named}.")
    column: Column = HeldImages(np.stack(pixels)) if pixels is not None else LazyImages(tuple(kept), shape, preprocess)
    classes, labels = _classes(root, kept)
    return ImageFolder(column, tuple(hashes), labels, classes, tuple(notes))


DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, MemoryError, EOFError, IndexError, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's decoders raise."""


class TooMuch(ValueError):
    """An image that could be read, but not as what it is."""


def decode(path: Path, preprocess: Preprocess) -> Array:
    """The picture at ``path`` as [C, H, W] bytes, resized and ordered as declared.

    Raises:
        TooMuch: it has more than ``MAX_PIXELS`` pixels, or more than 8 bits a channel.
        DECODER_ERRORS: it is broken.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning: the cap below is stricter
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise TooMuch(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
            if image.mode.startswith(("I", "F")):
                # Pillow would clip them to 255.
                raise TooMuch("more than 8 bits a channel: give such images as arrays (.npz)")
            picture = image.convert("L" if preprocess.channels == "gray" else "RGB")
    if preprocess.size is not None:
        picture = _cover(picture, preprocess.size)
    return _ordered(np.asarray(picture), preprocess.channels)


def _decode_all(
    paths: Sequence[Path], preprocess: Preprocess, memory_bytes: int
) -> tuple[list[Path], list[str], list[Array] | None, tuple[int, ...], list[str]]:
    kept: list[Path] = []
    hashes: list[str] = []
    pixels: list[Array] | None = []
    shape: tuple[int, ...] = ()
    broken: list[str] = []
    for path in paths:
        try:
            picture = decode(path, preprocess)
        except DECODER_ERRORS as error:
            broken.append(f"{path.name} ({error})" if isinstance(error, TooMuch) else path.name)
            continue
        if shape and picture.shape != shape:
            raise UsageError(
                "data_shape",
                f"Images differ in size: {kept[0].name} is {shape[2]}x{shape[1]}, "
                f"{path.name} is {picture.shape[2]}x{picture.shape[1]}.",
                hint="Declare --size.",
            )
        shape = tuple(int(n) for n in picture.shape)
        kept.append(path)
        hashes.append(hashlib.sha256(picture.tobytes()).hexdigest())
        if pixels is not None:
            pixels.append(picture)
            if len(pixels) * picture.nbytes > memory_bytes:
                pixels = None
    return kept, hashes, pixels, shape, broken


def _cover(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    factor = max(height / picture.height, width / picture.width)
    scaled = (max(width, round(picture.width * factor)), max(height, round(picture.height * factor)))
    if scaled != picture.size:
        picture = picture.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _ordered(pixels: Array, channels: Channels | None) -> Array:
    if channels == "gray":
        return np.ascontiguousarray(pixels[None])
    if channels == "bgr":
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _classes(root: Path, paths: Sequence[Path]) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    parents = [path.relative_to(root).parts[:-1] for path in paths]
    # An archive often wraps everything in one folder: it is no class.
    depth = 0
    while all(len(parts) > depth for parts in parents) and len({parts[depth] for parts in parents}) == 1:
        depth += 1
    if not all(len(parts) > depth for parts in parents):
        return (), None
    names = sorted({parts[depth] for parts in parents})
    return tuple(names), tuple(names.index(parts[depth]) for parts in parents)


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
