"""The service says whether it lives, whether it can work, and what it counts."""

from collections.abc import Callable

import httpx
from live import Live, problem


def test_it_lives_and_is_ready_without_a_key(live: Live) -> None:
    assert httpx.get(f"{live.url}/v1/health").json()["status"] == "ok"
    ready = httpx.get(f"{live.url}/v1/health/ready")
    assert (ready.status_code, ready.json()["checks"]) == (200, {"database": "ok", "storage": "ok", "queue": "ok"})
    assert problem(httpx.get(f"{live.url}/metrics")) == (404, "page_not_found")
    assert problem(httpx.get(f"{live.url}/nothing")) == (404, "no_such_path")
    assert problem(httpx.put(f"{live.url}/v1/jobs")) == (405, "method_not_allowed")


def test_figures_count_requests_by_route(fresh: Callable[..., Live]) -> None:
    live = fresh(metrics=True)
    with live.client() as client:
        client.get("/v1/jobs/one")
        client.get("/v1/jobs/two")
        client.get("/some/thing")
        told = httpx.get(f"{live.url}/metrics").text
    assert 'aslconvert_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 2.0' in told
    assert 'aslconvert_requests_total{method="any",route="none",status="404"} 1.0' in told
    assert "aslconvert_streams 0.0" in told
    assert 'aslconvert_queue_oldest_seconds{queue="cpu"} 0.0' in told
