"""A client of tus that says exactly what a test wants to say, and files to upload."""

from __future__ import annotations

import base64
import hashlib
import io
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

BODY = "application/offset+octet-stream"
UNDER_WAY = ("receiving", "vetting")


def described(**told: str) -> str:
    """Upload-Metadata."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in told.items())


def checksum(data: bytes) -> str:
    """Upload-Checksum of these bytes."""
    return "sha256 " + base64.b64encode(hashlib.sha256(data).digest()).decode()


class Tus:
    """Requests of tus by a client."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def announce(self, size: int, *, headers: dict[str, str] | None = None, **told: str) -> httpx.Response:
        about = described(**{"kind": "dataset", "filename": "some.npz", **told})
        given = {"Tus-Resumable": "1.0.0", "Upload-Length": str(size), "Upload-Metadata": about, **(headers or {})}
        return self.client.post("/v1/uploads", headers=given)

    def begin(self, size: int, **told: str) -> str:
        """The place of a new upload."""
        made = self.announce(size, **told)
        assert made.status_code == 201, made.text
        return made.headers["location"]

    def append(self, place: str, offset: int, data: bytes | Iterable[bytes], **headers: str) -> httpx.Response:
        given = {"Tus-Resumable": "1.0.0", "Upload-Offset": str(offset), "Content-Type": BODY}
        return self.client.patch(place, headers={**given, **headers}, content=data)

    def head(self, place: str) -> httpx.Response:
        return self.client.head(place, headers={"Tus-Resumable": "1.0.0"})

    def offset(self, place: str) -> int:
        found = self.head(place)
        assert found.status_code == 200, found.headers
        return int(found.headers["upload-offset"])

    def delete(self, place: str) -> httpx.Response:
        return self.client.delete(place, headers={"Tus-Resumable": "1.0.0"})

    def whole(self, data: bytes, **told: str) -> str:
        """The place of an upload that has all its bytes."""
        place = self.begin(len(data), **told)
        assert self.append(place, 0, data).status_code == 204
        return place

    def ended(self, place: str, *, seconds: float = 200) -> dict[str, Any]:
        """The upload once it has ended."""
        until = time.monotonic() + seconds
        while (told := self.client.get(place).json())["state"] in UNDER_WAY:
            assert time.monotonic() < until, told
            time.sleep(0.05)
        return dict(told)


def arrays(*, seed: int, size: int = 10_000, name: str = "image") -> bytes:
    """An .npz of about ``size`` bytes that is like no other seed's."""
    chance = np.random.default_rng(seed)
    file = io.BytesIO()
    np.savez(file, **{name: chance.random((max(8, size // 3072), 3, 16, 16), dtype=np.float32)})
    return file.getvalue()


def pictures(*, seed: int, classes: int = 2, each: int = 8, broken: int = 1) -> bytes:
    """A zip of class folders with small PNGs, some of them damaged."""
    chance = np.random.default_rng(seed)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for label in range(classes):
            for number in range(each):
                content = io.BytesIO()
                Image.fromarray(chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(content, "PNG")
                archive.writestr(f"class{label}/{number}.png", content.getvalue())
        for number in range(broken):
            archive.writestr(f"class0/broken{number}.png", b"\x89PNG but not really")
    return file.getvalue()


def blob_hashes(folder: Path) -> set[str]:
    """What the blob store holds, by its own bytes."""
    files = [path for path in (folder / "blobs").glob("??/*") if path.is_file()]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sandboxes(folder: Path) -> list[str]:
    """Processes of sandboxes below a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().decode()
            except OSError:
                continue
            if "sandbox.child" in line and str(folder) in line:
                found.append(entry.name)
    return found


def until_sandboxed(folder: Path, *, seconds: float = 120) -> None:
    """Wait until one is at work."""
    until = time.monotonic() + seconds
    while not sandboxes(folder):
        assert time.monotonic() < until, "no sandbox has started"
        time.sleep(0.01)


def staged(folder: Path) -> list[Path]:
    """Files of uploads under way."""
    return sorted((folder / "uploads").glob("*.part"))
