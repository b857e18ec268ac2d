"""Keys are made, shown once, scoped, expire and are revoked at once; what is done with them is written down."""

import socket
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from live import Live, problem

from aslconvert.service.keys import audit
from aslconvert.service.keys.service import create_first_key
from aslconvert.service.security.callers import Scope
from aslconvert.service.security.rates import Rates, neighbourhood
from aslconvert.service.settings import Settings
from aslconvert.workers.database import Transaction


def test_a_key_is_shown_once_and_works_until_it_is_revoked(live: Live, client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={"name": "ci", "scopes": ["read"], "expires_in_days": 1})
    assert made.status_code == 201
    key = made.json()
    assert key["key"].startswith(f"asl_{key['id']}_")
    assert key["expires"] is not None
    with live.client(key=key["key"]) as other:
        assert other.get("/v1/usage").json()["tenant"] == "default"
        assert problem(other.get("/v1/keys")) == (403, "forbidden")
        assert client.delete(f"/v1/keys/{key['id']}").status_code == 204
        assert problem(other.get("/v1/usage")) == (401, "unauthorized")
    listed = {one["id"]: one for one in client.get("/v1/keys", params={"limit": 1000}).json()["items"]}
    assert listed[key["id"]]["revoked"] is not None
    assert "key" not in listed[key["id"]]
    assert client.delete(f"/v1/keys/{key['id']}").status_code == 204
    assert problem(client.delete("/v1/keys/0000000000000000")) == (404, "key_not_found")


def test_the_database_has_no_secret_and_a_repeated_request_the_same_key(live: Live, client: httpx.Client) -> None:
    asked = {"name": "twice", "scopes": ["read", "write"]}
    headers = {"Idempotency-Key": "once and again"}
    first = client.post("/v1/keys", json=asked, headers=headers)
    again = client.post("/v1/keys", json=asked, headers=headers)
    assert first.json() == again.json()
    assert problem(client.post("/v1/keys", json={**asked, "name": "other"}, headers=headers)) == (
        422,
        "idempotency_mismatch",
    )
    secret = first.json()["key"].rpartition("_")[2]
    with live.client(key=first.json()["key"]) as other:
        assert other.get("/v1/usage").status_code == 200
    with sqlite3.connect(live.folder / "jobs.db") as database:
        assert secret not in "".join(database.iterdump())


def test_only_operators_make_keys_for_others_and_of_operators(live: Live) -> None:
    with live.client(Scope.ADMIN, tenant="a") as admin, live.client(Scope.OPERATOR) as operator:
        for asked in ({"tenant": "b", "scopes": ["read"]}, {"scopes": ["operator"]}):
            assert problem(admin.post("/v1/keys", json={"name": "n", **asked})) == (403, "forbidden")
            assert operator.post("/v1/keys", json={"name": "n", **asked}).status_code == 201
        mine = admin.post("/v1/keys", json={"name": "n", "scopes": ["admin"]}).json()
        assert mine["tenant"] == "a"
        assert {key["tenant"] for key in admin.get("/v1/keys").json()["items"]} == {"a"}
        tenants = {key["tenant"] for key in operator.get("/v1/keys", params={"limit": 100}).json()["items"]}
        assert {"a", "b"} <= tenants
        with live.client(Scope.ADMIN, tenant="c") as other:
            assert problem(other.delete(f"/v1/keys/{mine['id']}")) == (404, "key_not_found")
        assert operator.delete(f"/v1/keys/{mine['id']}").status_code == 204


def test_an_operators_key_is_not_a_tenants_to_revoke_and_a_key_that_ends_makes_none_that_stays(live: Live) -> None:
    with live.client(Scope.ADMIN, tenant="both") as admin, live.client(Scope.OPERATOR, tenant="both") as operator:
        found = [key for key in admin.get("/v1/keys").json()["items"] if key["scopes"] == ["operator"]]
        assert problem(admin.delete(f"/v1/keys/{found[0]['id']}")) == (403, "forbidden")
        assert operator.get("/v1/usage").status_code == 403  # it is still one
        assert operator.get("/v1/audit").status_code == 200
    ending = live.key(Scope.ADMIN, tenant="both", expires_in=timedelta(hours=1))
    with live.client(key=ending) as short:
        for days in ({}, {"expires_in_days": 30}):
            made = short.post("/v1/keys", json={"name": "n", "scopes": ["read"], **days}).json()
            left = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
            assert left <= timedelta(hours=1)


def test_denials_are_counted_and_go(live: Live) -> None:
    denials = audit.Denials()
    for number in range(3 * audit.MOST_DENIALS):
        denials.note(action="GET /v1/usage", outcome="unauthorized", caller=None, address="192.0.2.1")
        denials.note(action="GET /v1/jobs", outcome="unauthorized", caller=None, address=f"10.0.0.{number}")
    found = denials.take()
    assert len(found) == audit.MOST_DENIALS + 1
    assert found[0]["target"] == f"{3 * audit.MOST_DENIALS} times"
    assert found[-1]["outcome"] == f"{2 * audit.MOST_DENIALS + 1} more"
    database = live._stores[2]
    old = datetime.now(UTC) - timedelta(days=91)

    def work(at: Transaction) -> list[str]:
        audit.write(at, [{**found[0], "at": old, "address": "old"}, {**found[0], "address": "new"}])
        audit.trim(at)
        return [row.address for row in audit.entries(at, before=None, limit=100)]

    kept = database.write(work)
    assert "new" in kept
    assert "old" not in kept


def test_pages_hold_every_key_once(live: Live) -> None:
    with live.client(Scope.ADMIN, tenant="pages") as admin:
        made = {admin.post("/v1/keys", json={"name": "n", "scopes": ["read"]}).json()["id"] for _ in range(5)}
        seen: list[str] = []
        cursor = None
        while True:
            page = admin.get("/v1/keys", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            seen += [key["id"] for key in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) == 6
        assert made < set(seen)
        assert problem(admin.get("/v1/keys", params={"cursor": "nonsense"})) == (422, "bad_cursor")
        assert problem(admin.get("/v1/keys", params={"limit": 0})) == (422, "invalid_request")


@pytest.mark.parametrize(
    "key", ["", "asl_0000000000000000_" + 64 * "0", "asl_x", "Basic", "asl_0000000000000000_" + 64 * "é"]
)
def test_what_is_no_key_is_told_nothing(live: Live, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}".encode()} if key else {}
    answer = httpx.get(f"{live.url}/v1/usage", headers=headers)
    assert problem(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_an_expired_key_is_none(live: Live) -> None:
    with live.client(key=live.key(expires_in=timedelta(seconds=-1))) as late:
        assert problem(late.get("/v1/usage")) == (401, "unauthorized")


def test_uses_changes_and_denials_are_written_down(live: Live, client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={"name": "seen", "scopes": ["read"]}).json()
    with live.client(key=made["key"]) as other:
        assert other.get("/v1/usage").status_code == 200
        assert other.get("/v1/audit").status_code == 403

    def key() -> dict[str, object]:
        found = [one for one in client.get("/v1/keys?limit=100").json()["items"] if one["id"] == made["id"]]
        return dict(found[0])

    def denied() -> list[str]:
        items = client.get("/v1/audit").json()["items"]
        return [one["outcome"] for one in items if one["key"] == made["id"] and one["action"] == "GET /v1/audit"]

    until = time.monotonic() + 30
    while key()["last_used"] is None or not denied():
        assert time.monotonic() < until
    assert denied() == ["forbidden"]
    actions = [one["action"] for one in client.get("/v1/audit").json()["items"] if one["target"] == made["id"]]
    assert actions == ["key.create"]


def test_who_asks_too_often_is_told_when_to_come_again(fresh: Callable[..., Live]) -> None:
    live = fresh(requests_per_minute=60)
    with live.client() as eager, live.client() as other:
        answers = [eager.get("/v1/usage") for _ in range(30)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert answers[0].status_code == 200
        assert refused
        assert problem(refused[0]) == (429, "too_many_requests")
        assert int(refused[0].headers["retry-after"]) >= 1
        assert other.get("/v1/usage").status_code == 200


def test_an_address_without_a_key_is_told_when_to_come_again(fresh: Callable[..., Live]) -> None:
    live = fresh(requests_per_minute=60)
    wrong = {"Authorization": f"Bearer asl_{16 * '0'}_{64 * '0'}"}
    with httpx.Client(base_url=live.url) as stranger:
        link = "/v1/artifacts/x?expires=1&signature=x"
        for path in ("/v1/usage", link):
            answers = [stranger.get(path, headers=wrong) for _ in range(30)]
            assert problem(answers[0]) == (401, "unauthorized"), path
            assert problem(answers[-1]) == (429, "too_many_requests"), path
            assert int(answers[-1].headers["retry-after"]) >= 1


def test_neighbours_share_a_bucket() -> None:
    assert neighbourhood("192.0.2.1") != neighbourhood("192.0.2.2")
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:2")
    assert neighbourhood("2001:db8::1") != neighbourhood("2001:db8:0:1::1")


def test_a_rate_holds_and_recovers() -> None:
    rates = Rates(6000)
    assert [rates.take("a") for _ in range(600)] == [0.0] * 600
    waits = [rates.take("a") for _ in range(200)]
    assert 0 < max(waits) <= 0.02
    assert rates.take("b") == 0.0


def test_answers_carry_what_browsers_heed(live: Live, client: httpx.Client) -> None:
    headers = client.get("/v1/usage", headers={"Origin": "https://elsewhere.example"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


def sent(live: Live, parts: list[bytes], pause: float) -> bytes:
    """What a request that comes in parts is answered."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as peer:
        for part in parts:
            peer.sendall(part)
            time.sleep(pause)
        found = b""
        while chunk := peer.recv(1 << 16):
            found += chunk
    return found


def test_bodies_and_headers_have_a_limit(live: Live, client: httpx.Client) -> None:
    large = b'{"name": "' + b"x" * (1 << 20) + b'"}'
    json = {"Content-Type": "application/json"}
    assert problem(client.post("/v1/keys", content=large, headers=json)) == (413, "too_large")
    assert problem(client.post("/v1/keys", content=iter([large]), headers=json)) == (413, "too_large")
    head = b"GET /v1/health HTTP/1.1\r\nHost: here\r\nConnection: close\r\nX-Long: "
    # In parts as well: how the network cuts a head must not change what is told.
    for pause in (0.0, 0.1):
        answer = sent(live, [head, b"x" * 36_000, b"x" * 4_000 + b"\r\n\r\n"], pause)
        assert answer.startswith(b"HTTP/1.1 431 "), answer
        assert b"headers_too_large" in answer
    # What has no end is never in memory.
    assert sent(live, [head, b"x" * 60_000, b"x" * 60_000], 0.1).startswith(b"HTTP/1.1 400 ")
    chunked = b"GET /v1/health HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    for endless in (b"0\r\nX-Long: ", b"0\r\n" + b"X-Many: 0123456789\r\n" * 4000, b"1;x="):
        # The head is answered at once; the connection does not stay for what follows it.
        assert sent(live, [chunked + endless, b"x" * 60_000, b"x" * 60_000], 0.1).endswith(
            (b"The head of the request is too long.", b"Invalid HTTP request received.")
        )
    assert client.get("/v1/usage").status_code == 200


def test_the_first_key_is_made_once(fresh: Callable[..., Live]) -> None:
    live = fresh()
    settings = Settings(folder=live.folder)
    first = create_first_key(settings)
    assert create_first_key(settings) is None
    with live.client(key=first) as one:
        assert one.get("/v1/audit").status_code == 200
    assert (live.folder / "secret").stat().st_mode & 0o777 == 0o600
    # Whoever else has an account on the machine can read neither the database nor what was sent.
    assert {path.name for path in live.folder.iterdir() if path.stat().st_mode & 0o077} <= {"service.log"}
    made = live.folder / "a" / "new one"
    create_first_key(Settings(folder=made))
    assert made.stat().st_mode & 0o777 == 0o700


def test_origins_are_allowed_by_name(fresh: Callable[..., Live]) -> None:
    live = fresh(cors_origins='["https://app.example"]')
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    allowed = httpx.options(f"{live.url}/v1/usage", headers=asked).headers
    assert allowed["access-control-allow-origin"] == "https://app.example"
    other = httpx.options(f"{live.url}/v1/usage", headers={**asked, "Origin": "https://evil.example"}).headers
    assert "access-control-allow-origin" not in other
