"""The service is killed at random moments of submissions: who asks again with the same key gets exactly one job."""

import contextlib
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
from live import Live
from test_jobs import asked

ROUNDS = 4
CLIENTS = 4


def test_a_repeated_submission_makes_one_job_whenever_the_service_died(fresh: Callable[..., Live]) -> None:
    live = fresh(running_jobs=10_000, requests_per_minute=1_000_000)
    body = asked(live)
    key = live.key()
    chance = random.Random(7)
    answered: dict[str, set[str]] = {}

    def submit(name: str) -> int:
        """Ask again and again under one key until there is an answer; how often there was none."""
        deadline, lost = time.monotonic() + 240, 0
        with live.client(key=key) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": name})
                    assert answer.status_code == 202, answer.text
                    answered.setdefault(name, set()).add(answer.json()["id"])
                    return lost
                lost += 1
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def submit_until_one_is_lost(name: str) -> None:
        number = 0
        while submit(f"{name}-{number}") == 0:
            number += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        for number in range(ROUNDS):
            under_way = [pool.submit(submit_until_one_is_lost, f"{number}-{one}") for one in range(CLIENTS)]
            time.sleep(chance.uniform(0.0, 0.12))
            live.kill()
            live.start()
            for one in under_way:
                one.result()
    # Whether the first answer got through or not: the same key, the same job.
    for name in list(answered):
        submit(name)
    assert len(answered) >= ROUNDS * CLIENTS
    assert {len(ids) for ids in answered.values()} == {1}
    wanted = {job for ids in answered.values() for job in ids}
    assert len(wanted) == len(answered)
    found: set[str] = set()
    with live.client(key=key) as client:
        params = {"limit": "100"}
        while True:
            page = client.get("/v1/jobs", params=params).json()
            found |= {job["id"] for job in page["items"]}
            if page["next"] is None:
                break
            params["cursor"] = page["next"]
    assert found == wanted
