"""The service is killed in the middle of everything: afterwards there is one resource, with the right bytes."""

import hashlib
import io
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from live import Live
from uploading import Tus, arrays, blob_hashes, checksum, sandboxes, staged, until_sandboxed

from aslconvert.service.settings import Settings
from aslconvert.service.uploads.vetter import MOST_ATTEMPTS

SIZE = 64 << 20


def _paced(data: bytes, offset: int, sent: threading.Event) -> Iterator[bytes]:
    """The rest of the data, with a pause after two megabytes in which somebody may pull the plug."""
    for start in range(offset, len(data), 1 << 18):
        yield data[start : start + (1 << 18)]
        if start - offset > 2 << 20 and not sent.is_set():
            sent.set()
            time.sleep(0.2)


@pytest.mark.parametrize("promised", [False, True])
def test_killed_while_bytes_come(fresh: Callable[..., Live], promised: bool) -> None:
    live = fresh()
    data = arrays(seed=11 + promised, size=SIZE)
    chance = random.Random(3)
    with live.client() as client:
        tus = Tus(client)
        place = tus.begin(len(data), sha256=hashlib.sha256(data).hexdigest())
        offset = 0
        for _ in range(3):
            sent = threading.Event()

            def pull(sent: threading.Event = sent) -> None:
                assert sent.wait(60)
                time.sleep(chance.uniform(0, 0.3))
                live.kill()

            plug = threading.Thread(target=pull)
            plug.start()
            headers = {"Upload-Checksum": checksum(data[offset:])} if promised else {}
            with pytest.raises(httpx.TransportError):
                tus.append(place, offset, _paced(data, offset, sent), **headers)
            plug.join()
            live.start()
            received = tus.offset(place)
            file = live.folder / "uploads" / f"{place.rpartition('/')[2]}.part"
            assert file.read_bytes()[:received] == data[:received]
            # What had no checksum counts as far as it came, what had one not at all.
            assert received == offset if promised else received > offset
            step = min(len(data), received + (5 << 20))
            assert tus.append(place, received, data[received:step]).status_code == 204
            offset = step
        assert tus.append(place, offset, data[offset:]).status_code == 204
        ended = tus.ended(place)
        assert ended["state"] == "done", ended
        kept = client.get(ended["resource"]["url"]).json()
        assert kept["sha256"] == hashlib.sha256(data).hexdigest()
        assert kept["sha256"] in blob_hashes(live.folder)
        assert staged(live.folder) == []


def test_killed_while_it_is_vetted(fresh: Callable[..., Live]) -> None:
    live = fresh()
    chance = random.Random(4)
    with live.client() as client:
        tus = Tus(client)
        data = arrays(seed=13, size=8 << 20)
        place = tus.whole(data)
        for _ in range(MOST_ATTEMPTS - 1):
            until_sandboxed(live.folder)
            time.sleep(chance.uniform(0, 0.2))
            live.kill()
            # No sandbox outlives the service.
            until = time.monotonic() + 10
            while sandboxes(live.folder) and time.monotonic() < until:
                time.sleep(0.05)
            assert sandboxes(live.folder) == []
            live.start()
        ended = tus.ended(place)
        assert ended["state"] == "done", ended
        assert len(client.get("/v1/datasets").json()["items"]) == 1
        assert blob_hashes(live.folder) == {hashlib.sha256(data).hexdigest()}
        assert staged(live.folder) == []
        assert not list((live.folder / "uploads" / "desk").iterdir())


def test_killed_when_the_last_byte_had_come_and_nobody_was_told(fresh: Callable[..., Live]) -> None:
    live = fresh()
    data = arrays(seed=14)
    with live.client() as client:
        tus = Tus(client)
        place = tus.begin(len(data))
        tus.append(place, 0, data[:100])
        live.kill()
        # What the kernel keeps when the process dies between the write and the row.
        with (live.folder / "uploads" / f"{place.rpartition('/')[2]}.part").open("ab") as file:
            file.write(data[100:])
        live.start()
        assert tus.offset(place) == len(data)
        assert tus.ended(place)["state"] == "done"


@pytest.mark.parametrize("there", [True, False])
def test_killed_between_the_blob_and_its_row(fresh: Callable[..., Live], there: bool) -> None:
    live = fresh()
    data = arrays(seed=15)
    digest = hashlib.sha256(data).hexdigest()
    with live.client() as client:
        tus = Tus(client)
        place = tus.begin(len(data))
        upload_id = place.rpartition("/")[2]
        live.kill()
        # The state that a crash leaves there: the file has become a blob, and the row still says vetting.
        if there:
            with Settings(folder=live.folder).places.opened() as (_, blobs):
                assert blobs.put(io.BytesIO(data)).hash == digest
        os.unlink(live.folder / "uploads" / f"{upload_id}.part")
        with sqlite3.connect(live.folder / "jobs.db") as database:
            told = '{"kind": "npz", "facts": {"arrays": 1}}'
            database.execute(
                "UPDATE uploads SET state = 'vetting', sha256 = ?, facts = ? WHERE id = ?", (digest, told, upload_id)
            )
        live.start()
        ended = tus.ended(place)
        if there:
            kept = client.get(ended["resource"]["url"]).json()
            assert (kept["sha256"], kept["facts"]) == (digest, {"arrays": 1})
        else:
            assert (ended["state"], ended["error"]["code"]) == ("refused", "upload_lost")


def test_one_that_takes_the_service_down_again_and_again_is_given_up(fresh: Callable[..., Live]) -> None:
    live = fresh()
    with live.client() as client:
        tus = Tus(client)
        place = tus.begin(100)
        tus.append(place, 0, b"x" * 50)
        live.kill()
        with sqlite3.connect(live.folder / "jobs.db") as database:
            database.execute("UPDATE uploads SET state = 'vetting', attempts = ?", (MOST_ATTEMPTS,))
        live.start()
        ended = tus.ended(place)
        assert (ended["state"], ended["error"]["code"]) == ("refused", "vetting_gave_up")
        assert staged(live.folder) == []


def test_files_that_no_row_names_are_swept(fresh: Callable[..., Live]) -> None:
    live = fresh(upload_stall_seconds=0.1)
    with live.client() as client:
        kept = Tus(client).begin(100).rpartition("/")[2]
        live.kill()
        orphan = live.folder / "uploads" / "01900000-0000-7000-8000-000000000000.part"
        orphan.write_bytes(b"x")
        os.utime(orphan, (1, 1))
        live.start()
        until = time.monotonic() + 20
        while orphan.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert [path.stem for path in staged(live.folder)] == [kept]


def test_two_processes_see_one_upload_through_once(fresh: Callable[..., Live]) -> None:
    first = fresh()
    second = Live(first.folder).start()
    try:
        with first.client() as one, second.client() as two:
            places = [Tus(client).whole(arrays(seed=20 + n)) for n, client in enumerate((one, two, one, two))]
            ended = [Tus(two).ended(place) for place in places]
            assert {told["state"] for told in ended} == {"done"}
            assert len(one.get("/v1/datasets").json()["items"]) == len(places)
        assert staged(first.folder) == []
    finally:
        second.kill()
