"""tus as its page says it: offsets, checksums, expiry, termination, and what a client may do wrong."""

import base64
import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from live import Live, problem
from uploading import BODY, Tus, arrays, blob_hashes, checksum, described, staged

from aslconvert.service.security.callers import Scope

HEAD = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
def tus(client: httpx.Client) -> Tus:
    return Tus(client)


def test_what_is_spoken(client: httpx.Client) -> None:
    told = client.options("/v1/uploads")
    assert told.status_code == 204
    assert told.headers["tus-version"] == told.headers["tus-resumable"] == "1.0.0"
    extensions = {"creation", "creation-with-upload", "checksum", "termination", "expiration"}
    assert set(told.headers["tus-extension"].split(",")) == extensions
    assert told.headers["tus-checksum-algorithm"] == "sha256"


def test_resumes_at_random_offsets_to_the_same_bytes(live: Live, tus: Tus) -> None:
    chance = random.Random(1)
    data = arrays(seed=1, size=3_000_000)
    place = tus.begin(len(data), sha256=hashlib.sha256(data).hexdigest(), name="ours")
    offset = 0
    while offset < len(data):
        part = data[offset : offset + chance.choice([1, 1000, 65_536, 700_001])]
        headers = {"Upload-Checksum": checksum(part)} if chance.random() < 0.5 else {}
        answer = tus.append(place, offset, part, **headers)
        assert answer.status_code == 204, answer.text
        offset += len(part)
        assert answer.headers["upload-offset"] == str(offset)
        assert offset == len(data) or "upload-expires" in answer.headers
        assert tus.offset(place) == offset
    ended = tus.ended(place)
    assert (ended["state"], ended["received"], ended["error"]) == ("done", len(data), None)
    kept = tus.client.get(ended["resource"]["url"]).json()
    assert kept["sha256"] == hashlib.sha256(data).hexdigest()
    assert (kept["bytes"], kept["name"], kept["kind"], kept["facts"]["arrays"]) == (len(data), "ours", "npz", 1)
    assert kept["sha256"] in blob_hashes(live.folder)
    assert place.rpartition("/")[2] not in [path.stem for path in staged(live.folder)]


def test_head_gives_back_what_was_said(tus: Tus) -> None:
    assert tus.announce(1000, filetype="x", type="", relativePath="a/b").status_code == 201
    place = tus.begin(1000, name="n")
    told = tus.head(place)
    assert told.headers["upload-length"] == "1000"
    assert told.headers["upload-metadata"] == described(kind="dataset", filename="some.npz", name="n")
    assert told.headers["cache-control"] == "no-store"
    assert "upload-expires" in told.headers


def test_creation_with_the_first_bytes(tus: Tus) -> None:
    data = arrays(seed=2)
    told = {
        **HEAD,
        "Upload-Length": str(len(data)),
        "Upload-Metadata": described(kind="dataset", filename="a.npz"),
        "Content-Type": BODY,
    }
    made = tus.client.post("/v1/uploads", headers=told, content=data[:700])
    assert (made.status_code, made.headers["upload-offset"]) == (201, "700")
    place = made.headers["location"]
    assert tus.append(place, 700, data[700:]).status_code == 204
    assert tus.ended(place)["state"] == "done"
    wrong = tus.client.post("/v1/uploads", headers={**told, "Upload-Checksum": checksum(b"other")}, content=data)
    assert problem(wrong) == (460, "checksum_mismatch")
    assert tus.offset(wrong.headers["location"]) == 0


def test_a_repeated_announcement_is_one_upload(live: Live, tus: Tus) -> None:
    key = {"Idempotency-Key": "one"}
    before = len(staged(live.folder))
    places = {tus.announce(500, headers=key).headers["location"] for _ in range(3)}
    assert len(places) == 1
    assert problem(tus.announce(501, headers=key)) == (422, "idempotency_mismatch")
    assert len(staged(live.folder)) == before + 1


def test_a_wrong_checksum_keeps_nothing_and_the_right_one_goes_on(tus: Tus) -> None:
    data = arrays(seed=3, size=4_000_000)
    place = tus.begin(len(data))
    assert tus.append(place, 0, data[:1000]).status_code == 204
    # Long enough that its first megabytes are written before the rest is known.
    assert problem(tus.append(place, 1000, data[1000:], **{"Upload-Checksum": checksum(data)})) == (
        460,
        "checksum_mismatch",
    )
    assert tus.offset(place) == 1000
    assert tus.append(place, 1000, data[1000:], **{"Upload-Checksum": checksum(data[1000:])}).status_code == 204
    kept = tus.client.get(tus.ended(place)["resource"]["url"]).json()
    assert kept["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_hash_may_be_promised_as_late_as_with_the_last_bytes(tus: Tus) -> None:
    data = arrays(seed=4)
    right, wrong = digest(data), digest(b"other")
    place = tus.begin(len(data))
    assert tus.append(place, 0, data[:1000], **{"Repr-Digest": f"md5=:AAAA:, {right}"}).status_code == 204
    # What was said once holds; a promise that is not kept is told when all bytes are there.
    assert problem(tus.append(place, 1000, data[1000:], **{"Repr-Digest": wrong})) == (400, "upload_digest")
    assert tus.offset(place) == 1000
    assert tus.append(place, 1000, data[1000:], **{"Repr-Digest": right}).status_code == 204
    assert tus.ended(place)["state"] == "done"
    place = tus.begin(len(data))
    assert tus.append(place, 0, data, **{"Repr-Digest": wrong}).status_code == 204
    told = tus.ended(place)
    assert (told["state"], told["error"]["code"]) == ("refused", "upload_digest")
    place = tus.begin(1000, sha256=hashlib.sha256(data).hexdigest())
    for value in ("sha-256=:AAAA:", "sha-256=AAAA", "sha-256=", "sha-256=::"):
        assert problem(tus.append(place, 0, b"x", **{"Repr-Digest": value})) == (400, "upload_header"), value
    assert problem(tus.append(place, 0, b"x", **{"Repr-Digest": wrong})) == (400, "upload_digest")


def digest(data: bytes) -> str:
    """Repr-Digest of these bytes."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def test_what_a_client_may_do_wrong(tus: Tus) -> None:
    place = tus.begin(1000)
    wrong = tus.append(place, 1, b"x")
    assert problem(wrong) == (409, "upload_offset")
    assert wrong.headers["upload-offset"] == "0"
    assert wrong.headers["tus-resumable"] == "1.0.0"
    assert problem(tus.append(place, 0, b"x" * 1001)) == (413, "upload_too_long")
    # Without a length the bytes themselves are counted, and those that fit are kept.
    assert problem(tus.append(place, 0, (b"x" * 300 for _ in range(4)))) == (413, "upload_too_long")
    assert tus.offset(place) <= 1000
    assert problem(tus.append(place, -1, b"x")) == (400, "upload_header")
    assert problem(tus.append(place, 0, b"x", **{"Content-Type": "text/plain"})) == (415, "upload_type")
    assert problem(tus.append(place, 0, b"x", **{"Upload-Checksum": "md5 AAAA"})) == (400, "checksum_algorithm")
    assert problem(tus.append(place, 0, b"x", **{"Upload-Checksum": "sha256 AAAA"})) == (400, "upload_header")
    old = tus.append(place, 0, b"x", **{"Tus-Resumable": "0.2.2"})
    assert problem(old) == (412, "tus_version")
    assert old.headers["tus-version"] == "1.0.0"
    for told in ({"kind": "code"}, {"sha256": "zz"}, {"architecture": "a@b"}, {"filename": "a\n"}, {"other": "x"}):
        assert problem(tus.announce(10, **told))[1] == "upload_metadata"
    for path in ("../../etc/passwd@x", "a/../b", "/etc/x", "a@/etc/passwd", "a//b"):
        assert problem(tus.announce(10, kind="model", architecture=path)) == (400, "upload_metadata")
    assert problem(tus.announce(1 << 60)) == (413, "upload_too_large")
    assert problem(tus.append("/v1/uploads/nothing", 0, b"x")) == (404, "upload_not_found")


def test_another_tenants_upload_does_not_exist(live: Live, tus: Tus) -> None:
    place = tus.begin(1000)
    with live.client(tenant="other") as client:
        other = Tus(client)
        assert other.head(place).status_code == 404
        assert problem(client.get(place)) == (404, "upload_not_found")
        assert problem(other.append(place, 0, b"x")) == (404, "upload_not_found")
        assert problem(other.delete(place)) == (404, "upload_not_found")
    with live.client(Scope.READ) as reader:
        assert problem(Tus(reader).append(place, 0, b"x")) == (403, "forbidden")
    assert tus.offset(place) == 0


def test_termination_leaves_nothing(live: Live, tus: Tus) -> None:
    before = staged(live.folder)
    place = tus.begin(1000)
    tus.append(place, 0, b"x" * 10)
    assert len(staged(live.folder)) == len(before) + 1
    assert tus.delete(place).status_code == 204
    assert staged(live.folder) == before
    assert tus.head(place).status_code == 404
    assert problem(tus.delete(place)) == (404, "upload_not_found")


def test_a_finished_upload_goes_and_what_it_made_stays(tus: Tus) -> None:
    data = arrays(seed=4)
    place = tus.whole(data)
    ended = tus.ended(place)
    assert problem(tus.append(place, len(data), b"")) == (409, "upload_ended")
    assert tus.delete(place).status_code == 204
    assert tus.client.get(ended["resource"]["url"]).status_code == 200


def test_silence_expires(fresh: Callable[..., Live]) -> None:
    live = fresh(upload_seconds=1)
    with live.client() as client:
        tus = Tus(client)
        place = tus.begin(1000)
        tus.append(place, 0, b"x" * 10)
        time.sleep(1.1)
        assert tus.head(place).status_code == 410
        assert problem(tus.append(place, 10, b"x")) == (410, "upload_expired")
        assert client.get(place).json()["state"] == "expired"
        assert len(staged(live.folder)) == 1
        # The next start sweeps, and the sweeper of every minute likewise.
        live.kill()
        live.start()
        until = time.monotonic() + 20
        while staged(live.folder) and time.monotonic() < until:
            time.sleep(0.05)
        assert staged(live.folder) == []
        assert client.get(place).json()["state"] == "expired"
        assert client.get("/v1/usage").json()["used"]["storage_bytes"] == 0


def test_a_full_quota_takes_no_byte(fresh: Callable[..., Live]) -> None:
    live = fresh(storage_bytes=100_000)
    with live.client() as client:
        tus = Tus(client)
        assert problem(tus.announce(100_001)) == (403, "quota_storage")
        place = tus.begin(60_000)
        # Announced bytes count before they come.
        assert client.get("/v1/usage").json()["used"]["storage_bytes"] == 60_000
        assert problem(tus.announce(60_000)) == (403, "quota_storage")
        form = client.post("/v1/datasets", files={"file": ("a.npz", arrays(seed=5, size=60_000))})
        assert problem(form) == (403, "quota_storage")
        assert len(staged(live.folder)) == 1
        assert tus.delete(place).status_code == 204
        assert tus.announce(60_000).status_code == 201


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_announcements_at_once_do_not_overfill(
    fresh: Callable[..., Live], request: pytest.FixtureRequest, kind: str
) -> None:
    where = {"database_url": request.getfixturevalue("postgres").url()} if kind == "postgres" else {}
    live = fresh(storage_bytes=100_000, requests_per_minute=10**6, **where)
    with live.client() as client, ThreadPoolExecutor(8) as pool:
        tus = Tus(client)
        made = [answer for answer in pool.map(lambda _: tus.announce(40_000), range(8)) if answer.status_code == 201]
        assert len(made) == 2
        for answer in made:
            assert tus.delete(answer.headers["location"]).status_code == 204
        data = arrays(seed=8)
        ended = tus.ended(tus.whole(data), seconds=200)
        assert client.get(ended["resource"]["url"]).json()["sha256"] == hashlib.sha256(data).hexdigest()


def _slowly(data: bytes, go_on: threading.Event) -> Iterator[bytes]:
    yield data[:1000]
    assert go_on.wait(30)
    yield data[1000:]


def test_two_clients_on_one_upload(live: Live, tus: Tus) -> None:
    data = arrays(seed=6, size=200_000)
    place = tus.begin(len(data))
    go_on = threading.Event()
    answers: list[httpx.Response] = []
    with live.client() as other:
        slow = threading.Thread(target=lambda: answers.append(Tus(other).append(place, 0, _slowly(data, go_on))))
        slow.start()
        until = time.monotonic() + 20
        # At an offset that is never right: it tells whether the other one holds it, and changes nothing.
        while problem(second := tus.append(place, 10**9, b"")) != (423, "upload_locked"):
            assert time.monotonic() < until
        assert second.headers["retry-after"] == "1"
        assert problem(tus.delete(place)) == (423, "upload_locked")
        go_on.set()
        slow.join()
    assert answers[0].status_code == 204
    assert tus.ended(place)["state"] == "done"


def test_bytes_before_a_broken_connection_count(live: Live, tus: Tus) -> None:
    data = os.urandom(3_000_000)
    place = tus.begin(len(data))
    expires = tus.client.get(place).json()["expires"]
    _break_off(live, tus, place, data, {})
    received = _settled(tus, place)
    # It was not silent.
    assert tus.client.get(place).json()["expires"] > expires
    assert 0 < received <= 2_000_000
    assert (live.folder / "uploads" / f"{place.rpartition('/')[2]}.part").read_bytes() == data[:received]
    # With a checksum none of them does.
    _break_off(live, tus, place, data[received:], {"Upload-Checksum": checksum(data[received:])}, offset=received)
    assert _settled(tus, place) == received


def _break_off(live: Live, tus: Tus, place: str, data: bytes, headers: dict[str, str], *, offset: int = 0) -> None:
    told = {
        **HEAD, "Host": "test", "Authorization": tus.client.headers["authorization"], "Upload-Offset": str(offset),
        "Content-Type": BODY, "Content-Length": str(len(data)), **headers,
    }  # fmt: skip
    head = f"PATCH {place} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in told.items()) + "\r\n"
    with socket.create_connection(("127.0.0.1", live.port)) as line:
        line.sendall(head.encode() + data[: 2_000_000 if offset == 0 else len(data) // 2])
        until = time.monotonic() + 60
        part = live.folder / "uploads" / f"{place.rpartition('/')[2]}.part"
        # Not before the request has written, or with a checksum its mark. Asking would take the lock from it.
        while part.stat().st_size == offset and not part.with_suffix(".mark").exists():
            assert time.monotonic() < until
            time.sleep(0.01)


def _settled(tus: Tus, place: str) -> int:
    """The offset once the broken request has let go."""
    until = time.monotonic() + 20
    while (answer := tus.append(place, 10**9, b"")).status_code == 423:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert problem(answer)[1] == "upload_offset"
    return tus.offset(place)


def test_a_client_that_sends_nothing_is_let_go(fresh: Callable[..., Live]) -> None:
    live = fresh(upload_stall_seconds=0.5)
    with live.client() as client:
        tus = Tus(client)
        place = tus.begin(10_000)
        stuck = threading.Event()
        answer = tus.append(place, 0, _stuck(b"x" * 2000, stuck))
        assert problem(answer) == (408, "upload_stalled")
        stuck.set()
        assert tus.offset(place) == 1000


def _stuck(data: bytes, stuck: threading.Event) -> Iterator[bytes]:
    yield data[:1000]
    # The answer comes while this waits.
    stuck.wait(3)


def test_the_api_process_knows_no_torch(live: Live, client: httpx.Client) -> None:
    assert live.process is not None
    Tus(client).ended(Tus(client).whole(arrays(seed=7)))
    with open(f"/proc/{live.process.pid}/maps") as maps:
        loaded = maps.read()
    assert not [name for name in ("libtorch", "numpy", "onnx") if name in loaded]
