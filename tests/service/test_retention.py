"""What is over is cleared away: results of old jobs, answers of old requests; what jobs used stays counted."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from live import Live, ended, problem
from test_jobs import asked

from aslconvert.service.context import Context
from aslconvert.service.housekeeping import Housekeeping
from aslconvert.service.keys.audit import MOST_DENIALS, Denials
from aslconvert.service.security.callers import LastUses
from aslconvert.service.security.secrets import Secrets
from aslconvert.service.settings import Settings


def test_old_jobs_expire_with_their_files_and_are_tried_again(fresh: Callable[..., Live]) -> None:
    live = fresh(embedded=True, engine="service_engine:run")
    with live.client() as client:
        headers = {"Idempotency-Key": "old"}
        body = asked(live)
        job = ended(client, client.post("/v1/jobs", json=body, headers=headers).json()["id"])
        url = client.get(job["links"]["artifacts"]).json()["items"][0]["url"]
        before = client.get("/v1/usage").json()["used"]
        with sqlite3.connect(live.folder / "jobs.db") as database:
            # A stop of the clock for the tables: everything is as if it had been 31 days ago.
            then = (datetime.now(UTC) - timedelta(days=31)).strftime("%Y-%m-%d %H:%M:%S.%f")
            database.execute("UPDATE jobs SET finished = ?", (then,))
            database.execute("UPDATE request_keys SET created = ?", (then,))
        settings = Settings(folder=live.folder)
        with settings.places.opened() as (jobs, blobs):
            context = Context(settings=settings, jobs=jobs, blobs=blobs, secrets=Secrets(b"x" * 32))
            Housekeeping(context, LastUses(), Denials()).clean()
        old = client.get(f"/v1/jobs/{job['id']}").json()
        assert (old["state"], old["links"]["artifacts"], old["options"]) == ("expired", None, job["options"])
        assert problem(client.get(url)) == (404, "artifact_not_found")
        after = client.get("/v1/usage").json()["used"]
        assert after["storage_bytes"] < before["storage_bytes"]
        assert after["device_minutes"] == before["device_minutes"] > 0
        again = client.post(f"/v1/jobs/{job['id']}/retry")
        assert ended(client, again.json()["id"])["state"] == "succeeded"
        # The answer of then is forgotten, so that the same key is new.
        assert client.post("/v1/jobs", json=body, headers=headers).json()["id"] != job["id"]


def test_a_flood_of_denials_is_counted_and_not_kept() -> None:
    denials = Denials()
    for number in range(10_000):
        denials.note(action="GET /v1/jobs", outcome="unauthorized", caller=None, address=f"192.0.2.{number}")
    kept = denials.take()
    assert len(kept) == MOST_DENIALS + 1
    assert kept[-1]["outcome"] == f"{10_000 - MOST_DENIALS} more"
    assert denials.take() == []
