"""Messages about ended jobs: signed, sent until they are taken, kept over a kill, and not into the network here."""

import contextlib
import hashlib
import hmac
import ipaddress
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import httpx
import pytest
from live import Live, problem
from sqlalchemy import select, update
from test_jobs import asked

from aslconvert.service.errors import ServiceError
from aslconvert.service.jobs.tables import webhooks
from aslconvert.service.webhooks import delivery
from aslconvert.service.webhooks.guard import GuardedBackend, NotAllowed, check_url, is_open
from aslconvert.workers.database import Transaction

SECRET = "a secret of some length"


class Receiver:
    """A server that notes what it gets, and answers what it is told to."""

    def __init__(self) -> None:
        self.got: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.answers: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.answers.pop(0) if outer.answers else 204
                outer.got.put((dict(self.headers), body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self) -> tuple[dict[str, str], dict[str, Any]]:
        """The next message, whose signature must be right."""
        headers, body = self.got.get(timeout=90)
        told = dict(part.split("=", 1) for part in headers["Aslconvert-Signature"].split(","))
        wanted = hmac.new(SECRET.encode(), f"{told['t']}.".encode() + body, hashlib.sha256).hexdigest()
        assert told["v1"] == wanted
        message: dict[str, Any] = json.loads(body)
        return headers, message


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_the_end_is_told_until_it_is_heard_and_over_a_kill(fresh: Callable[..., Live], receiver: Receiver) -> None:
    live = fresh(webhook_private=True, webhook_retry_seconds=0.5, requests_per_minute=100_000)
    receiver.answers = [500, 302]
    with live.client() as client:
        hook = {"url": receiver.url, "secret": SECRET}
        job = client.post("/v1/jobs", json=asked(live, webhook=hook)).json()
        waiting = client.post("/v1/jobs", json=asked(live, webhook=hook)).json()
        client.post(f"/v1/jobs/{job['id']}/cancel")
        messages = [receiver.next()[1] for _ in range(3)]
        assert len({message["id"] for message in messages}) == 1
        assert {message["event"] for message in messages} == {"job.finished"}
        assert messages[-1]["job"]["id"] == job["id"]
        assert messages[-1]["job"]["state"] == "cancelled"
        assert SECRET not in json.dumps(messages)
        # A message that nobody takes when the service dies is told by the one after it.
        receiver.answers = [503]
        client.post(f"/v1/jobs/{waiting['id']}/cancel")
        first = receiver.next()[1]
        live.kill()
        lease_over(live, waiting["id"])
        live.start()
        again = receiver.next()[1]
        assert (again["id"], again["job"]["id"]) == (first["id"], waiting["id"])
        assert receiver.got.empty()


def lease_over(live: Live, job: str) -> None:
    """Put the clock of one message on by the lease for which a process that is sending it may have it."""
    mine = (webhooks.c.job_id == job) & (webhooks.c.state == delivery.WAITING)

    def put_on(at: Transaction) -> None:
        due = at.connection.execute(select(webhooks.c.next_at).where(mine)).scalar_one()
        earlier = due - timedelta(seconds=delivery.LEASE_SECONDS)
        at.connection.execute(update(webhooks).where(mine).values(next_at=earlier))

    live._stores[2].write(put_on)


def test_private_addresses_are_refused_unless_the_operator_allows_them(live: Live) -> None:
    with live.client() as client:
        for url in ("http://example.com/x", "https://127.0.0.1/x", "https://[::1]/", "https://127.1/", "ftp://a/bcdef"):
            hook = {"url": url, "secret": SECRET}
            assert problem(client.post("/v1/jobs", json=asked(live, webhook=hook))) == (422, "webhook_url"), url
        good = {"url": "https://example.com/x", "secret": SECRET}
        assert client.post("/v1/jobs", json=asked(live, webhook=good)).status_code == 202


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
     "ff02::1", "fec0::1", "::10.0.0.1", "::7f00:1", "64:ff9b:1::a00:1", "2001:db8:1:1:0:5efe:a00:1",
     "2606:2800:220:1:0:5efe:a00:1"],
)  # fmt: skip
def test_addresses_that_are_not_open(address: str) -> None:
    assert not is_open(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ServiceError):
        check_url(f"https://{host}/", private=False)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_open(address: str) -> None:
    assert is_open(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url", ["https://user@example.com/", "https://", "https://example.com:0/", "https://exa mple.com/", "x" * 20,
            "https://example.com:99999/", "https://2130706433/", "https://0x7f.1/", "https://example.com/#a"]
)  # fmt: skip
def test_addresses_that_cannot_be_told(url: str) -> None:
    with pytest.raises(ServiceError):
        check_url(url, private=False)


def test_a_name_that_leads_here_is_not_connected_to(receiver: Receiver) -> None:
    port = receiver.server.server_address[1]
    with httpcore.ConnectionPool(network_backend=GuardedBackend(private=False)) as pool, pytest.raises(NotAllowed):
        pool.request("POST", f"http://localhost:{port}/hook", content=b"{}")
    with httpcore.ConnectionPool(network_backend=GuardedBackend(private=True)) as pool:
        headers: dict[bytes | str, bytes | str] = {"Aslconvert-Signature": "t=1,v1=x"}
        assert pool.request("POST", f"http://localhost:{port}/hook", headers=headers, content=b"{}").status == 204


@pytest.fixture
def slow() -> Iterator[str]:
    """A receiver that sends the head of its answer a byte at a time, and never all of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(peer: socket.socket) -> None:
            with peer, contextlib.suppress(OSError):
                peer.sendall(b"HTTP/1.1 204 No Content\r\nX: ")
                while True:
                    peer.sendall(b"x")
                    time.sleep(0.2)

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hook"


def test_a_slow_receiver_keeps_neither_others_nor_the_end_waiting(
    fresh: Callable[..., Live], receiver: Receiver, slow: str
) -> None:
    live = fresh(webhook_private=True, requests_per_minute=100_000)
    with live.client() as client, live.client(tenant="other") as other:

        def end_one(who: httpx.Client, url: str, body: dict[str, Any]) -> str:
            job = who.post("/v1/jobs", json={**body, "webhook": {"url": url, "secret": SECRET}}).json()
            who.post(f"/v1/jobs/{job['id']}/cancel")
            return str(job["id"])

        body = asked(live)
        for _ in range(20):
            end_one(client, slow, body)
        time.sleep(3)
        model, data = live.things("other")
        told = end_one(other, receiver.url, {**body, "model": model, "dataset": data})
        began = time.monotonic()
        assert receiver.next()[1]["job"]["id"] == told
        assert time.monotonic() - began < 15
        began = time.monotonic()
        live.stop()
        assert time.monotonic() - began < 15


def test_a_try_ends_whatever_comes(slow: str) -> None:
    backend = GuardedBackend(private=True, seconds=1.0)
    began = time.monotonic()
    with httpcore.ConnectionPool(network_backend=backend) as pool, pytest.raises(httpcore.ReadTimeout):
        pool.request("POST", slow, content=b"{}", extensions={"timeout": {"read": 10.0}})
    assert time.monotonic() - began < 5


def test_a_late_failure_does_not_undo_what_another_process_delivered(fresh: Callable[..., Live]) -> None:
    live = fresh(webhook_private=True)
    with live.client() as client:
        hook = {"url": "http://127.0.0.1:9/x", "secret": SECRET}
        job = client.post("/v1/jobs", json=asked(live, webhook=hook)).json()["id"]
    live.stop()
    database = live._stores[2]

    def row(at: Transaction) -> Any:
        return at.connection.execute(select(webhooks).where(webhooks.c.job_id == job)).one()

    first = database.read(row)
    claimed = database.write(lambda at: delivery._claim(at, first))
    assert claimed is not None
    assert database.write(lambda at: delivery._claim(at, first)) is None
    second = database.read(row)
    again = database.write(lambda at: delivery._claim(at, second))
    assert again is not None
    assert not database.write(lambda at: delivery._note(at, first, claimed, "ReadTimeout", 1.0))
    assert database.write(lambda at: delivery._note(at, second, again, None, 1.0))
    assert not database.write(lambda at: delivery._note(at, first, claimed, "ReadTimeout", 1.0))
    assert database.read(row).state == delivery.DELIVERED
