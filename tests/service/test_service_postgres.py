"""The service over PostgreSQL: the same answers, and told from outside when the database is away."""

import threading
from collections.abc import Callable

import httpx
from live import Live, ended, problem
from postgres import Cluster
from test_events import followed
from test_jobs import asked


def test_everything_works_and_an_outage_is_told_and_over(fresh: Callable[..., Live], postgres: Cluster) -> None:
    live = fresh(
        database_url=postgres.url(),
        embedded=True,
        engine="service_engine:run",
        running_jobs=2,
        requests_per_minute=10**6,
    )
    key = live.key()
    body = asked(live)
    answers: list[httpx.Response] = []

    def ask() -> None:
        with live.client(key=key) as client:
            answers.append(client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    with live.client(key=key) as client:
        job = ended(client, answers[0].json()["id"])
        assert job["state"] == "succeeded"
        assert followed(client, job["id"])[-1][1:] == ("end", {"state": "succeeded"})
        assert [one["id"] for one in client.get("/v1/jobs", params={"model": body["model"]}).json()["items"]] == [
            job["id"]
        ]
        used = client.get("/v1/usage").json()["used"]
        assert used["storage_bytes"] > 0
        assert used["device_minutes"] > 0
        made = client.post("/v1/keys", json={"name": "n", "scopes": ["read"]}).json()
        assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
        assert client.get("/v1/audit", params={"limit": 1}).json()["items"][0]["action"] == "key.revoke"
        # A text that one database takes and the other does not.
        assert problem(client.post("/v1/keys", json={"name": "a\x00b", "scopes": ["read"]})) == (422, "bad_key_name")
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204

        postgres.stop(mode="immediate")
        away = httpx.get(f"{live.url}/v1/health/ready", timeout=60)
        assert (away.status_code, away.json()["checks"]["database"]) == (503, "database_unavailable")
        refused = client.get("/v1/jobs")
        assert problem(refused) == (503, "database_unavailable")
        assert refused.headers["retry-after"] == "5"
        assert httpx.get(f"{live.url}/v1/health").status_code == 200
        postgres.start()
        assert client.get("/v1/jobs").json()["items"] == []
