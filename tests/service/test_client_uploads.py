"""Uploads of the client to a real service: they go on over cut lines, killed servers and ended processes."""

import asyncio
import base64
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cutting import cutting
from live import Live

from aslconvert.service.client import AsyncClient, Client, Dataset, Misuse, Model, Retry, Unreachable, UploadFailed
from aslconvert.service.client.pieces import Pieces
from aslconvert.service.client.uploads import PIECE

PATIENT = Retry(first=0.05, most=0.5, patience=60.0)
SAMPLES = 2 * PIECE // (3 * 64 * 64 * 4) + 60  # a little more than two pieces


@pytest.fixture(scope="module")
def data(memory: Path) -> Path:
    path = memory / "upload.npz"
    np.savez(path, input=np.random.default_rng(0).random((SAMPLES, 3, 64, 64), dtype=np.float32))
    return path


def own(data: Path, seed: int) -> Path:
    """Data that no other test has sent."""
    path = data.with_name(f"own{seed}.npz")
    np.savez(path, input=np.random.default_rng(seed).random((SAMPLES, 3, 64, 64), dtype=np.float32))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def send(kind: str, url: str, key: str, path: Path, sent: Path, progress: Callable[[int, int], None]) -> Dataset:
    if kind == "sync":
        with Client(url, key, retry=PATIENT, sent=sent) as client:
            return client.upload_dataset(path, name="data", progress=progress)

    async def awaited() -> Dataset:
        async with AsyncClient(url, key, retry=PATIENT, sent=sent) as client:
            return await client.upload_dataset(path, name="data", progress=progress)

    return asyncio.run(awaited())


@pytest.mark.parametrize(("kind", "seed"), [("sync", 1), ("async", 2)])
def test_an_upload_goes_on_over_a_cut_line(kind: str, seed: int, live: Live, data: Path, tmp_path: Path) -> None:
    path, told = own(data, seed), []
    with cutting(live.port) as proxy:
        proxy.after = PIECE + PIECE // 2
        found = send(kind, proxy.url, live.key(), path, tmp_path, lambda done, total: told.append(done))
        assert proxy.cuts == 1
    assert (found.bytes, found.name) == (path.stat().st_size, "data")
    assert told == sorted(told)
    assert told[0] == 0
    # The first piece was not sent again.
    assert told.count(PIECE) >= 1
    assert told[-1] == path.stat().st_size
    assert list(tmp_path.iterdir()) == []


def test_an_upload_goes_on_after_a_kill_of_the_service(fresh: Callable[..., Live], data: Path, tmp_path: Path) -> None:
    service, told = fresh(), []
    starting: list[threading.Thread] = []

    def progress(done: int, total: int) -> None:
        told.append(done)
        if done >= PIECE and not starting:
            service.kill()
            starting.append(threading.Thread(target=service.start))
            starting[0].start()

    found = send("sync", service.url, service.key(), data, tmp_path, progress)
    starting[0].join()
    assert found.bytes == data.stat().st_size
    assert [done for done in told if done < PIECE] == [0]


GIVES_UP = """
import sys
from pathlib import Path
from aslconvert.service.client import Client, Retry
url, key, path, sent = sys.argv[1:]
with Client(url, key, retry=Retry(patience=0.2), sent=Path(sent)) as client:
    client.upload_dataset(Path(path), progress=lambda done, total: print(done, flush=True))
"""


def test_another_process_goes_on_where_one_ended(live: Live, data: Path, tmp_path: Path) -> None:
    path, key = own(data, 3), live.key()
    with cutting(live.port) as proxy:
        command = [sys.executable, "-c", GIVES_UP, proxy.url, key, str(path), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= PIECE:
                    proxy.refusing = True
                    proxy.cut()
                    break
            assert process.wait(60) == 1
        kept = list(tmp_path.iterdir())
        assert len(kept) == 1
        assert kept[0].stat().st_mode & 0o077 == 0
        assert key not in kept[0].read_text()
        proxy.refusing = False
        told: list[int] = []
        with Client(proxy.url, key, retry=PATIENT, sent=tmp_path) as client:
            found = client.upload_dataset(path, progress=lambda done, total: told.append(done))
            assert told[0] >= PIECE
            assert client.dataset(found.id).bytes == path.stat().st_size
    assert list(tmp_path.iterdir()) == []


def test_state_of_an_upload_that_is_gone_is_no_hindrance(live: Live, data: Path, tmp_path: Path) -> None:
    path = own(data, 4)
    with cutting(live.port) as proxy, Client(proxy.url, live.key(), retry=PATIENT, sent=tmp_path) as client:

        def cut(done: int, total: int) -> None:
            if done:
                proxy.refusing = True
                proxy.cut()

        hasty = Client(proxy.url, client.connection.key, retry=Retry(patience=0.1), sent=tmp_path)
        with hasty, pytest.raises(Unreachable):
            hasty.upload_dataset(path, progress=cut)
        proxy.refusing = False
        (state,) = tmp_path.iterdir()
        state.write_text(json.dumps({"upload": "gone"}))
        assert client.upload_dataset(path).bytes == path.stat().st_size
        state.write_text("damaged")
        assert client.upload_dataset(path).bytes == path.stat().st_size


def test_the_same_file_is_the_same_data_set(live: Live, data: Path, tmp_path: Path) -> None:
    with Client(live.url, live.key(), sent=tmp_path) as client:
        first = client.upload_dataset(data)
        assert client.upload_dataset(data).id == first.id
        assert first.id in {one.id for one in client.datasets()}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_file_that_is_no_model_is_refused_with_the_code_of_the_intake(kind: str, live: Live, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(pickle.dumps({"weights": 1.0}))

    path, sent, key = tmp_path / "model.pt2", tmp_path / "sent", live.key()

    async def awaited() -> Model:
        async with AsyncClient(live.url, key, sent=sent) as client:
            return await client.upload_model(path)

    def blocking() -> Model:
        with Client(live.url, key, sent=sent) as client:
            return client.upload_model(path)

    with pytest.raises(UploadFailed) as caught:
        blocking() if kind == "sync" else asyncio.run(awaited())
    assert (caught.value.code, caught.value.kind) == ("kind_code", "user")
    assert list(sent.iterdir()) == []


def test_a_file_that_changes_while_it_is_sent_is_told(live: Live, data: Path, tmp_path: Path) -> None:
    path = own(data, 5)

    def change(done: int, total: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with Client(live.url, live.key(), sent=tmp_path) as client, pytest.raises(UploadFailed) as caught:
        client.upload_dataset(path, progress=change)
    assert caught.value.code == "file_changed"


def test_bytes_damaged_on_the_way_are_told_and_the_next_try_is_whole(live: Live, data: Path, tmp_path: Path) -> None:
    path = own(data, 6)
    with cutting(live.port) as proxy, Client(proxy.url, live.key(), retry=PATIENT, sent=tmp_path) as client:
        proxy.damage = PIECE + PIECE // 2
        with pytest.raises(UploadFailed) as caught:
            client.upload_dataset(path)
        assert (caught.value.code, proxy.damage) == ("upload_digest", None)
        assert list(tmp_path.iterdir()) == []
        assert client.upload_dataset(path).sha256 == sha256(path)


@pytest.mark.parametrize(("in_the_last", "seed"), [(False, 7), (True, 8)])
def test_another_file_of_the_same_name_size_and_time_is_told(
    in_the_last: bool, seed: int, live: Live, data: Path, tmp_path: Path
) -> None:
    path, other = own(data, seed), own(data, 10 + seed)
    with cutting(live.port) as proxy, Client(proxy.url, live.key(), retry=PATIENT, sent=tmp_path) as client:

        def cut(done: int, total: int) -> None:
            if done >= PIECE:
                proxy.refusing = True
                if in_the_last:
                    # The last piece says the hash of the whole before its bytes.
                    proxy.after = PIECE + PIECE // 2
                else:
                    proxy.cut()

        hasty = Client(proxy.url, client.connection.key, retry=Retry(patience=0.1), sent=tmp_path)
        with hasty, pytest.raises(Unreachable):
            hasty.upload_dataset(path, progress=cut)
        proxy.refusing = False
        found = path.stat()
        path.write_bytes(other.read_bytes())
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        with pytest.raises(UploadFailed) as caught:
            client.upload_dataset(path)
        assert caught.value.code == "upload_digest"
        assert client.upload_dataset(path).sha256 == sha256(path)


def test_pieces_hash_what_comes_before_them_from_wherever_they_begin(tmp_path: Path) -> None:
    path, content = tmp_path / "file", np.random.default_rng(3).bytes(5 << 20)
    path.write_bytes(content)
    chance, pieces = np.random.default_rng(4), Pieces(path)
    for start in [0, 1 << 20, 2 << 20, 1 << 20, 5 << 20, 3, *chance.integers(0, 5 << 20, 20).tolist()]:
        most = int(chance.integers(1, 2 << 20))
        part, digest = pieces.take(start, most)
        end = min(len(content), start + most)
        assert (part.start, part.length) == (start, end - start)
        assert digest == base64.b64encode(hashlib.sha256(content[:end]).digest()).decode()


def test_a_file_that_is_not_there_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9", "asl_a_b") as client, pytest.raises(Misuse, match="cannot be read"):
        client.upload_model(tmp_path / "none.pt2")


def test_what_was_deleted_since_it_was_sent_is_sent_anew(live: Live, tmp_path: Path) -> None:
    path, remembered = tmp_path / "small.npz", tmp_path / "sent"
    np.savez(path, input=np.random.default_rng(9).random((4, 3, 8, 8), dtype=np.float32))
    with Client(live.url, live.key(), retry=PATIENT, sent=remembered) as client:
        first, kept = client.upload_dataset(path), {}

        def keep(done: int, total: int | None) -> None:
            # As of a command that ended before it could forget the upload.
            kept.update({file: file.read_bytes() for file in remembered.iterdir()})

        client.delete_dataset(first.id)
        second = client.upload_dataset(path, progress=keep)
        client.delete_dataset(second.id)
        assert kept
        for file, content in kept.items():
            file.write_bytes(content)
        third = client.upload_dataset(path)
        assert client.dataset(third.id).sha256 == sha256(path)
        assert len({first.id, second.id, third.id}) == 3
