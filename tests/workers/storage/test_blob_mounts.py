"""Blobs are taken over from another mount of the same file system, as the volumes of a container are."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aslconvert.workers.storage import LocalBlobs


@pytest.fixture
def two_mounts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two folders of one device between which nothing can be renamed."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "--bind", str(folder), str(other)], check=False, capture_output=True).returncode
    ):
        pytest.skip("NO MOUNTS HERE: making one needs root")
    try:
        yield one, other
    finally:
        subprocess.run(["umount", str(other)], check=True)


def test_a_file_of_another_mount_is_copied(two_mounts: tuple[Path, Path]) -> None:
    one, other = two_mounts
    path = one / "upload.part"
    path.write_bytes(b"bytes")
    assert one.stat().st_dev == other.stat().st_dev
    with pytest.raises(OSError, match="cross-device"):
        os.rename(path, other / "x")
    store = LocalBlobs(other / "blobs")
    admitted = []
    blob = store.adopt(path, admit=admitted.append)
    assert blob.hash == hashlib.sha256(b"bytes").hexdigest()
    assert store.open(blob.hash).read() == b"bytes"
    assert not path.exists()
    assert set(admitted) == {blob}


def test_a_file_that_could_not_be_taken_over_is_still_its_owners_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "upload.part"
    path.write_bytes(b"bytes")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        LocalBlobs(tmp_path / "blobs").adopt(path)
    assert path.stat().st_mode & 0o200
