"""Previews that fail, that are too many, that take the service down: nobody waits for ever or keeps others off."""

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, problem

from aslconvert.service.datasets.previews import MOST_MAKING


@pytest.fixture
def nobody_makes(live: Live) -> Iterator[None]:
    """Every preview of the folder is said to be made by another process."""
    desk = live.folder / "uploads" / "desk"
    desk.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for number in range(256):
            file = stack.enter_context((desk / f"preview-{number:02x}.lock").open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _told(client: httpx.Client, url: str) -> httpx.Response:
    until = time.monotonic() + 60
    while (answer := client.get(url)).status_code == 202:
        assert time.monotonic() < until
        time.sleep(0.1)
    return answer


def _rows(folder: Path, statement: str, *values: Any) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "jobs.db", timeout=30)) as database, database:
        return database.execute(statement, values).fetchall()


def test_one_that_fails_for_want_of_something_is_told_and_begun_anew_after_a_pause(live: Live) -> None:
    with live.client(tenant="lost") as client:
        _, data = live.things("lost", content=b"lost")
        [(sha256,)] = _rows(live.folder, "SELECT sha256 FROM datasets WHERE id = ?", data)
        (live.folder / "blobs" / sha256[:2] / sha256).unlink()
        url = f"/v1/datasets/{data}/preview"
        first = _told(client, url)
        assert problem(first) == (503, "data_lost")
        assert "retry-after" in first.headers
        assert client.get(url).json() == first.json()
        # An hour later somebody asks again.
        _rows(live.folder, "UPDATE previews SET created = '2001-01-01 00:00:00.000000' WHERE dataset_id = ?", data)
        assert client.get(url).status_code == 202
        assert problem(_told(client, url)) == (503, "data_lost")


def test_a_tenant_waits_for_few_at_a_time_and_keeps_no_other_off(live: Live, nobody_makes: None) -> None:
    with live.client(tenant="eager") as eager, live.client(tenant="other") as other:
        url, another = (f"/v1/datasets/{live.things(tenant)[1]}/preview" for tenant in ("eager", "other"))
        for samples in range(1, MOST_MAKING + 1):
            assert eager.get(url, params={"samples": samples}).status_code == 202
        refused = eager.get(url, params={"samples": 16})
        assert problem(refused) == (429, "too_many_previews")
        assert "retry-after" in refused.headers
        # What was asked for before is waited for, and another tenant has its own.
        assert eager.get(url, params={"samples": 1}).status_code == 202
        assert other.get(another).status_code == 202


def test_previews_count_towards_the_storage(live: Live) -> None:
    with live.client(tenant="counted") as client:
        model, data = live.things("counted", content=b"counted")
        [(size, digest)] = _rows(live.folder, "SELECT bytes, sha256 FROM models WHERE id = ?", model)
        before = client.get("/v1/usage").json()["used"]["storage_bytes"]
        assert client.delete(f"/v1/models/{model}").status_code == 204
        assert client.get("/v1/usage").json()["used"]["storage_bytes"] == before - size
        # The same blob once more, as what was made of the data.
        _rows(
            live.folder,
            "INSERT INTO previews (id, dataset_id, asked, state, attempts, sha256, created) "
            "SELECT ?, id, '{}', 'done', 1, ?, created FROM datasets WHERE id = ?",
            "0" * 64, digest, data,
        )  # fmt: skip
        assert client.get("/v1/usage").json()["used"]["storage_bytes"] == before


def test_one_that_takes_the_service_down_is_given_up_and_its_leftovers_go(fresh: Callable[..., Live]) -> None:
    live = fresh()
    with live.client():
        _, data = live.things()
        live.kill()
        _rows(
            live.folder,
            "INSERT INTO previews (id, dataset_id, asked, state, attempts, created) "
            "SELECT ?, id, '{\"samples\": 4, \"options\": {}}', 'making', 2, created FROM datasets WHERE id = ?",
            "1" * 64, data,
        )  # fmt: skip
        desk = live.folder / "uploads" / "desk"
        for name in ("2" * 64, "2" * 64 + ".in", "01900000-0000-7000-8000-000000000000"):
            (desk / name / "deep").mkdir(parents=True)
        live.start()
        until = time.monotonic() + 20
        asked = "SELECT state, json_extract(problem, '$.code') FROM previews"
        while (rows := _rows(live.folder, asked))[0][0] == "making" and time.monotonic() < until:
            time.sleep(0.05)
        assert rows == [("failed", "preview_gave_up")]
        while [path for path in desk.iterdir() if path.is_dir()] and time.monotonic() < until:
            time.sleep(0.05)
        assert not [path for path in desk.iterdir() if path.is_dir()]
