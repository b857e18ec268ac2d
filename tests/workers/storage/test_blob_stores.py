"""What every blob store keeps: a folder, obstore over a folder, and obstore against a real S3 server."""

import hashlib
import io
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore, ObjectStore, S3Store

from aslconvert.workers.errors import BlobNotFound, DamagedBlob, InfrastructureError, UserError
from aslconvert.workers.storage import Blob, BlobStore, LocalBlobs, open_blobs
from aslconvert.workers.storage.remote import ObjectBlobs

DATA = random.Random(1).randbytes(12_000_000)  # more than the 5 MB from which an upload has parts
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an S3 server that checks signatures and keeps objects in files."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "nanio", "serve", "--data-dir", str(folder), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "error", "--no-access-log"],
        env=os.environ | {"NANIO_ACCESS_KEY": "key", "NANIO_SECRET_KEY": "secret" * 4},
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not _answers(address):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
        yield address
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=1).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


class Place:
    """A store, and a way to put other bytes behind its back."""

    def __init__(self, store: BlobStore, raw: ObjectStore) -> None:
        self.store = store
        self.raw = raw

    def damage(self, digest: str, data: bytes) -> None:
        obstore.put(self.raw, f"{digest[:2]}/{digest}", data)


@pytest.fixture(params=["local", "object_folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        (tmp_path / "b").mkdir()
        return Place(open_blobs(str(tmp_path / "b"), staging_folder=tmp_path), LocalStore(tmp_path / "b"))
    if request.param == "object_folder":
        (tmp_path / "b").mkdir()
        return Place(ObjectBlobs(LocalStore(tmp_path / "b"), tmp_path / "s"), LocalStore(tmp_path / "b"))
    address = request.getfixturevalue("server")
    prefix = tmp_path.name.replace("_", "-")
    options: Any = {
        "endpoint": address,
        "client_options": {"allow_http": True},
        "access_key_id": "key",
        "secret_access_key": "secret" * 4,
        "region": "us-east-1",
    }
    store = open_blobs(f"s3://bucket/{prefix}", staging_folder=tmp_path / "s", options=options)
    return Place(store, S3Store.from_url(f"s3://bucket/{prefix}", **options))


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def test_what_is_put_can_be_read(place: Place, tmp_path: Path) -> None:
    assert not place.store.exists(DIGEST)
    blob = place.store.put(io.BytesIO(DATA))
    assert blob == Blob(DIGEST, len(DATA))
    assert place.store.exists(DIGEST)
    assert place.store.size(DIGEST) == len(DATA)
    with place.store.open(DIGEST) as file:
        assert file.read() == DATA
        assert file.read() == b""
    assert place.store.put([DATA[:7], DATA[7:]]) == blob
    assert leftovers(tmp_path) == []


def test_all_that_is_stored_is_told_once_and_nothing_else(place: Place) -> None:
    assert list(place.store.stored()) == []
    put = [place.store.put([str(number).encode()]) for number in range(5)]
    obstore.put(place.raw, f"{DIGEST[:2]}/notes.txt", b"not ours")
    obstore.put(place.raw, f"zz/{DIGEST}", b"nor this")
    key = sorted(put, key=lambda blob: blob.hash)
    assert sorted(place.store.stored(), key=lambda blob: blob.hash) == key
    place.store.delete(put[0].hash)
    assert {blob.hash for blob in place.store.stored()} == {blob.hash for blob in put[1:]}


def test_an_empty_blob(place: Place) -> None:
    blob = place.store.put([])
    assert blob.hash == hashlib.sha256(b"").hexdigest()
    with place.store.open(blob.hash) as file:
        assert file.read() == b""
    assert list(place.store.read_range(blob.hash, 0, 5)) == []


def test_ranges(place: Place) -> None:
    place.store.put([DATA])
    for start, length in ((0, 5), (3_000_000, 2_500_000), (len(DATA) - 4, 100), (len(DATA), 1), (9, 0)):
        assert b"".join(place.store.read_range(DIGEST, start, length)) == DATA[start : start + length]
    for start, length in ((-1, 2), (0, -1), (len(DATA) + 1, 1)):
        with pytest.raises(UserError, match="The blob has"):
            place.store.read_range(DIGEST, start, length)


@pytest.mark.parametrize(
    "damaged",
    [DATA[:5] + bytes([DATA[5] ^ 1]) + DATA[6:], DATA[:-1], DATA + b"x", b""],
    ids=["flipped", "cut", "longer", "empty"],
)
def test_damage_is_seen_before_the_last_byte(place: Place, damaged: bytes) -> None:
    place.store.put([DATA])
    place.damage(DIGEST, damaged)
    got: list[bytes] = []
    with place.store.open(DIGEST) as file, pytest.raises(DamagedBlob):
        got.extend(iter(lambda: file.read(100_000), b""))
    assert sum(map(len, got)) < len(DATA)
    place.store.put([DATA])
    with place.store.open(DIGEST) as file:
        assert file.read() == DATA


def test_a_file_is_adopted(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    assert place.store.adopt(path) == Blob(DIGEST, len(DATA))
    assert not path.exists()
    with place.store.open(DIGEST) as file:
        assert file.read() == DATA


def test_a_file_with_another_name_is_copied(place: Place, tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"data")
    other.hardlink_to(path)
    blob = place.store.adopt(path)
    other.write_bytes(b"DATA")
    with place.store.open(blob.hash) as file:
        assert file.read() == b"data"


def test_only_files_are_adopted(place: Place, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ".", "none"):
        with pytest.raises(UserError, match="no regular file"):
            place.store.adopt(tmp_path / name)
    assert (tmp_path / "target").exists()


def test_what_is_not_there(place: Place) -> None:
    place.store.delete(DIGEST)
    for digest in (DIGEST, "../../etc/passwd", "A" * 64, ""):
        with pytest.raises(BlobNotFound):
            place.store.size(digest)
        with pytest.raises(BlobNotFound):
            place.store.open(digest)
        with pytest.raises(BlobNotFound):
            place.store.read_range(digest, 0, 1)


def test_deletion(place: Place) -> None:
    place.store.put([b"x"])
    digest = hashlib.sha256(b"x").hexdigest()
    place.store.delete(digest)
    assert not place.store.exists(digest)


def test_a_blob_that_is_not_admitted_leaves_nothing(place: Place, tmp_path: Path) -> None:
    def refuse(blob: Blob) -> None:
        assert blob == Blob(DIGEST, len(DATA))
        raise UserError("quota", "Too much.")

    with pytest.raises(UserError, match="Too much"):
        place.store.put([DATA], admit=refuse)
    assert not place.store.exists(DIGEST)
    assert leftovers(tmp_path) == []


def test_a_source_that_breaks_leaves_nothing(place: Place, tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield DATA
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        place.store.put(source())
    assert not place.store.exists(DIGEST)
    assert leftovers(tmp_path) == []


def test_leftovers_are_swept_when_they_are_old(place: Place, tmp_path: Path) -> None:
    place.store.put([b"x"])
    (folder,) = {path for path in tmp_path.rglob("*") if path.name in {"s", "tmp"} and path.is_dir()}
    old, young = folder / "a.part", folder / "b.part"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert place.store.sweep(older_than=86_400) == 1
    assert (old.exists(), young.exists()) == (False, True)


def test_places_that_are_none(tmp_path: Path) -> None:
    for place in ("ftp://x/y", "http://x"):
        with pytest.raises(UserError, match="folder"):
            open_blobs(place, staging_folder=tmp_path)
    with pytest.raises(UserError, match="settings"):
        open_blobs("s3://bucket", staging_folder=tmp_path, options={"nonsense": object()})


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    options = {
        "endpoint": "http://127.0.0.1:9",
        "client_options": {"allow_http": True},
        "access_key_id": "key",
        "secret_access_key": "secret",
        "region": "x",
    }
    store = open_blobs("s3://bucket", staging_folder=tmp_path, options=options)
    with pytest.raises(InfrastructureError) as caught:
        store.size(DIGEST)
    assert caught.value.code == "storage_unavailable"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(chunks=st.lists(st.binary(max_size=50), max_size=6), reads=st.lists(st.integers(1, 40), min_size=1))
def test_any_way_of_reading_gives_the_same_bytes(tmp_path: Path, chunks: list[bytes], reads: list[int]) -> None:
    store = LocalBlobs(tmp_path)
    whole = b"".join(chunks)
    blob = store.put(chunks)
    assert blob == Blob(hashlib.sha256(whole).hexdigest(), len(whole))
    got, turn = b"", 0
    with store.open(blob.hash) as file:
        while chunk := file.read(reads[turn % len(reads)]):
            got += chunk
            turn += 1
    assert got == whole
