"""Requests of the client: what is tried again and when, what is not, which key goes where."""

import asyncio
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import Answer, Asked, free_port, scripted

from aslconvert.service.client import (
    AsyncClient,
    Busy,
    Client,
    Misuse,
    NotFound,
    Refused,
    Retry,
    Unauthorized,
    Unreachable,
    connection,
)
from aslconvert.service.client.retries import Tries, retry_after

QUICK = Retry(first=0.01, most=0.05, patience=1.0)
KEY = "asl_abc123_secretsecret"
JOB = {"id": "j1", "kind": "convert", "state": "queued", "created": "2026-01-01T00:00:00Z"}


def either(kind: str, url: str, work: Callable[[Any], Any], **more: Any) -> Any:
    """``work``'s call on a client of the kind that blocks, or on the other one."""
    if kind == "sync":
        with Client(url, KEY, retry=QUICK, **more) as client:
            return work(client)

    async def awaited() -> Any:
        async with AsyncClient(url, KEY, retry=QUICK, **more) as client:
            return await work(client)

    return asyncio.run(awaited())


def failing(times: int, failure: Answer, then: Answer) -> Callable[[Asked], Answer]:
    left = [failure] * times
    return lambda asked: left.pop() if left else then


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again_with_the_same_key(kind: str, status: int) -> None:
    script = failing(3, Answer(status, b"no", {"Retry-After": "0"}), Answer(202, json.dumps(JOB).encode()))
    with scripted(script) as server:
        job = either(kind, server.url, lambda client: client.submit(model="m1"))
    assert job.id == "j1"
    assert len(server.asked) == 4
    keys = {asked.headers["idempotency-key"] for asked in server.asked}
    assert len(keys) == 1
    assert len(keys.pop()) >= 32
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}


def test_two_submits_have_two_keys_and_a_given_one_is_kept() -> None:
    with scripted(lambda asked: Answer(202, json.dumps(JOB).encode())) as server, Client(server.url, KEY) as client:
        client.submit(model="m1")
        client.submit(model="m1")
        client.submit(model="m1", idempotency_key="mine")
    first, second, third = (asked.headers["idempotency-key"] for asked in server.asked)
    assert first != second
    assert third == "mine"


def test_what_was_deleted_though_its_answer_was_lost_is_deleted() -> None:
    gone = Answer(404)
    with scripted(failing(1, Answer(200, b"lost", cut=1), gone)) as server:
        either("sync", server.url, lambda client: client.delete_job("j1"))
        assert [asked.method for asked in server.asked] == ["DELETE", "DELETE"]
        # Of what was not there at the first try it is said.
        with pytest.raises(NotFound):
            either("sync", server.url, lambda client: client.delete_job("j1"))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_answer_that_is_cut_is_asked_for_again(kind: str) -> None:
    body = json.dumps(JOB).encode()
    with scripted(failing(2, Answer(200, body, cut=10), Answer(200, body))) as server:
        assert either(kind, server.url, lambda client: client.job("j1")).state == "queued"
    assert len(server.asked) == 3


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("status", "error"), [(400, Refused), (401, Unauthorized), (403, Unauthorized), (404, NotFound), (500, Refused)]
)
def test_what_does_not_mend_itself_is_told_at_once(kind: str, status: int, error: type[Refused]) -> None:
    problem = {"type": "t", "title": "T", "status": status, "detail": "No.", "code": "some_code", "kind": "user"}
    answer = Answer(status, json.dumps(problem).encode(), {"Content-Type": "application/problem+json"})
    with scripted(lambda asked: answer) as server, pytest.raises(error) as caught:
        either(kind, server.url, lambda client: client.job("j1"))
    assert (caught.value.code, caught.value.status, len(server.asked)) == ("some_code", status, 1)


def test_a_conflict_is_tried_again_only_where_the_server_says_when() -> None:
    body = json.dumps(JOB).encode()
    with scripted(failing(1, Answer(409, headers={"Retry-After": "0"}), Answer(202, body))) as server:
        either("sync", server.url, lambda client: client.cancel("j1"))
    assert len(server.asked) == 2
    with scripted(failing(1, Answer(409), Answer(202, body))) as server, pytest.raises(Refused):
        either("sync", server.url, lambda client: client.cancel("j1"))


def test_a_wait_beyond_the_patience_is_not_begun() -> None:
    begun = time.monotonic()
    with scripted(lambda asked: Answer(503, b"", {"Retry-After": "3600"})) as server, pytest.raises(Busy) as caught:
        either("sync", server.url, lambda client: client.job("j1"))
    assert caught.value.retry_after == 3600
    assert len(server.asked) == 1
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_that_is_not_there_is_given_up_after_the_patience(kind: str) -> None:
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        either(kind, f"http://127.0.0.1:{free_port()}", lambda client: client.job("j1"))
    assert 0.5 < time.monotonic() - begun < 10


def test_waits_grow_and_differ() -> None:
    retry = Retry(first=1.0, most=8.0)
    drawn = [[retry.wait(attempt) for _ in range(50)] for attempt in range(6)]
    assert all(0.5 * 2**n <= min(at) and max(at) <= 2**n for n, at in enumerate(drawn[:4]))
    assert max(drawn[5]) <= 8.0
    assert all(len(set(at)) > 40 for at in drawn)


def test_tries_end_and_start_anew() -> None:
    error = Unreachable("unreachable", "gone")
    tries = Tries(Retry(first=0.0, most=0.0, patience=0.05))
    list(tries.after(error))
    time.sleep(0.06)
    with pytest.raises(Unreachable):
        list(tries.after(error))
    tries.reset()
    list(tries.after(error))


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), ("7", 7.0), ("soon", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)]
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_lists_are_read_page_after_page() -> None:
    def answer(asked: Asked) -> Answer:
        page = (
            {"items": [{**JOB, "id": "j2"}], "next": None}
            if "cursor=c1" in asked.path
            else {"items": [JOB], "next": "c1"}
        )
        return Answer(200, json.dumps(page).encode())

    with scripted(answer) as server, Client(server.url, KEY) as client:
        assert [job.id for job in client.jobs(state="queued")] == ["j1", "j2"]
    assert all("state=queued" in asked.path for asked in server.asked)


def test_redirects_are_not_followed() -> None:
    with (
        scripted(lambda asked: Answer()) as other,
        scripted(lambda asked: Answer(302, b"", {"Location": other.url})) as server,
        Client(server.url, KEY) as client,
        pytest.raises(ValueError, match="JSON"),
    ):
        client.job("j1")
    assert other.asked == []


@pytest.mark.parametrize("wrong", ["", "..", "a/b", "a?b", "a b", "é/"])
def test_ids_do_not_lead_elsewhere(wrong: str) -> None:
    with Client(f"http://127.0.0.1:{free_port()}", KEY) as client, pytest.raises(Misuse):
        client.job(wrong)


def test_a_newer_server_may_say_more_and_a_page_of_a_proxy_is_quoted() -> None:
    with scripted(lambda asked: Answer(200, json.dumps({**JOB, "news": 1}).encode())) as server:
        assert either("sync", server.url, lambda client: client.job("j1")).id == "j1"
    with scripted(lambda asked: Answer(404, b"<h1>nginx</h1>")) as server, pytest.raises(NotFound, match="nginx"):
        either("sync", server.url, lambda client: client.job("j1"))


def test_the_key_comes_from_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASLCONVERT_KEY", raising=False)
    monkeypatch.delenv("ASLCONVERT_SERVER", raising=False)
    monkeypatch.setenv("ASLCONVERT_FOLDER", str(tmp_path))
    (tmp_path / "key").write_text("asl_left_1\n")
    (tmp_path / "named").write_text("asl_named_1\n")
    assert connection().key == "asl_left_1"
    assert connection().server == "http://127.0.0.1:8765"
    assert connection("http://localhost:1").key == "asl_left_1"
    # What lies on this machine is for this machine.
    assert connection("https://example.org").key is None
    monkeypatch.setenv("ASLCONVERT_KEY", "asl_environment_1")
    monkeypatch.setenv("ASLCONVERT_SERVER", "https://example.org/")
    assert connection().key == "asl_environment_1"
    assert connection().server == "https://example.org"
    assert connection(key_file=tmp_path / "named").key == "asl_named_1"
    assert connection(key="asl_given_1", key_file=tmp_path / "named").key == "asl_given_1"
    assert "given" not in repr(connection(key="asl_given_1"))


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ("ftp://x", None),
        ("nowhere", None),
        ("http://", None),
        ("http://u:p@host", None),
        ("http://h", "secret"),
        ("http://h:port", None),
    ],
)
def test_servers_and_keys_that_cannot_be_are_refused(server: str, key: str | None) -> None:
    with pytest.raises(Misuse):
        connection(server, key)


def test_a_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="cannot be read"):
        connection("http://h", key_file=tmp_path / "none")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(Misuse):
        connection("http://h", key_file=tmp_path / "binary")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate of this machine's addresses that nobody but its own file vouches for, and a server's side of it."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("NO OPENSSL HERE: no certificate can be made")
    folder = tmp_path_factory.mktemp("authority")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def test_a_certificate_that_is_not_trusted_is_not_tried_again(authority: tuple[Path, ssl.SSLContext]) -> None:
    with scripted(lambda asked: Answer(), tls=authority[1]) as server, pytest.raises(Unreachable) as caught:
        either("sync", server.url.replace("http:", "https:"), lambda client: client.job("j1"))
    assert caught.value.code == "certificate"
    assert server.connections == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_authority_of_ones_own_is_trusted_on_this_machine_too(
    kind: str, authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    with scripted(lambda asked: Answer(body=json.dumps(JOB).encode()), tls=authority[1]) as server:
        assert either(kind, server.url.replace("http:", "https:"), lambda client: client.job("j1")).id == "j1"


def test_a_file_of_authorities_that_is_none_is_said_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").touch()
    for name in ("none", "empty"):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
        with pytest.raises(Misuse, match=name) as caught:
            Client("https://127.0.0.1:1", KEY)
        assert caught.value.code == "certificate_file"
    # Without TLS nobody is asked to vouch.
    Client("http://127.0.0.1:1", KEY).close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_preview_is_waited_for(kind: str) -> None:
    seen = {"sample": 0, "name": "x", "dtype": "float32", "shape": [3, 8, 8], "image": "data:image/png;base64,AA=="}
    told = {"inputs": [seen], "samples": 1, "total": 9, "splits": {"test": 9}}
    script = failing(
        2, Answer(202, b'{"state": "making"}', {"Retry-After": "0.01"}), Answer(200, json.dumps(told).encode())
    )
    with scripted(script) as server:
        found = either(
            kind, server.url, lambda client: client.preview("d1", model="m1", samples=1, mean=(0.5, 1), size="8x9")
        )
    assert (found.total, found.inputs[0].shape) == (9, (3, 8, 8))
    (path,) = {asked.path for asked in server.asked}
    assert path == "/v1/datasets/d1/preview?model=m1&samples=1&mean=0.5&mean=1&size=8x9"
    assert len(server.asked) == 3


def test_the_audit_is_read_page_by_page() -> None:
    entry = {"at": "2026-01-01T00:00:00Z", "action": "key.create", "outcome": "done", "address": "::1"}
    pages = [{"items": [entry], "next": "c"}, {"items": [entry | {"action": "job.create"}], "next": None}]
    with (
        scripted(lambda asked: Answer(200, json.dumps(pages["cursor=c" in asked.path]).encode())) as server,
        Client(server.url, KEY) as client,
    ):
        assert [entry.action for entry in client.audit()] == ["key.create", "job.create"]


def test_whoever_waits_is_told_once() -> None:
    told: list[tuple[str, float]] = []
    retry = Retry(first=0.01, most=0.02, patience=5.0, waiting=lambda error, most: told.append((error.code, most)))
    script = failing(3, Answer(503, b"no"), Answer(200, json.dumps(JOB).encode()))
    with scripted(script) as server, Client(server.url, KEY, retry=retry) as client:
        client.job("j1")
    assert told == [("http_503", 5.0)]
