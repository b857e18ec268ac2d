"""What came of a job: its report, its variants, its files in ranges, by signed links, and gone with the job."""

import base64
import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from live import Live, ended, problem
from service_engine import FILES, report
from test_jobs import asked

from aslconvert.service.reports.ranges import attachment
from aslconvert.service.security.callers import Scope


@pytest.fixture(scope="module")
def done(memory: Path) -> Iterator[tuple[Live, dict[str, Any]]]:
    """A service, and a job that has succeeded."""
    folder = Path(tempfile.mkdtemp(dir=memory))
    live = Live(folder, requests_per_minute=1_000_000, embedded=True, engine="service_engine:run").start()
    with live.client() as client:
        job = ended(client, client.post("/v1/jobs", json=asked(live)).json()["id"])
    yield live, job
    live.close()


@pytest.fixture
def client(done: tuple[Live, dict[str, Any]]) -> Iterator[httpx.Client]:
    with done[0].client() as opened:
        yield opened


def artifacts(client: httpx.Client, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in client.get(job["links"]["artifacts"]).json()["items"]}


def test_report_and_variants(done: tuple[Live, dict[str, Any]], client: httpx.Client) -> None:
    _, job = done
    assert client.get(f"/v1/jobs/{job['id']}/report").json() == report()
    page = client.get(f"/v1/jobs/{job['id']}/report.html")
    assert page.content == FILES["report.html"]
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("sandbox")
    first, second = client.get(f"/v1/jobs/{job['id']}/variants").json()["items"]
    assert (second["name"], second["recommended"], second["speedup"]) == ("x3.00", True, 3.0)
    assert (second["latency_ms"], second["loss"], second["loss_ci"]) == (10.0, 0.3, [0.2, 0.4])
    assert (second["metric"]["name"], second["metric"]["value"]) == ("psnr", 38.5)
    assert [one["name"] for one in second["artifacts"]] == ["model.onnx", "model.pt2"]
    assert (first["recommended"], first["artifacts"]) == (False, [])
    assert client.get(f"/v1/models/{job['model']}/variants").json()["items"] == [first, second]
    assert problem(client.get("/v1/models/none/variants")) == (404, "model_not_found")


def test_a_file_comes_whole_and_as_what_it_is(done: tuple[Live, dict[str, Any]], client: httpx.Client) -> None:
    _, job = done
    one = artifacts(client, job)["model.pt2"]
    answer = client.get(one["url"])
    digest = hashlib.sha256(answer.content)
    assert answer.content == FILES["model.pt2"]
    assert one["sha256"] == digest.hexdigest()
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["content-disposition"].startswith('attachment; filename="model.pt2"')
    assert answer.headers["content-type"] == "application/octet-stream"
    head = client.head(one["url"])
    assert head.content == b""
    assert int(head.headers["content-length"]) == len(FILES["model.pt2"])
    assert client.get(one["url"], headers={"If-None-Match": head.headers["etag"]}).status_code == 304
    assert set(artifacts(client, job)) == {*FILES, "report.json"}


@pytest.mark.parametrize(
    ("asked_for", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=44990-", 44990, 45000), ("bytes=-5", 44995, 45000),
     ("bytes=44000-99999", 44000, 45000), ("bytes=-99999", 0, 45000)],
)  # fmt: skip
def test_ranges(done: tuple[Live, dict[str, Any]], client: httpx.Client, asked_for: str, start: int, end: int) -> None:
    data = FILES["model.pt2"]
    assert len(data) == 45000
    url = artifacts(client, done[1])["model.pt2"]["url"]
    answer = client.get(url, headers={"Range": asked_for})
    assert (answer.status_code, answer.content) == (206, data[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    stale = client.get(url, headers={"Range": asked_for, "If-Range": '"other"'})
    assert (stale.status_code, stale.content) == (200, data)


def test_ranges_that_are_none(done: tuple[Live, dict[str, Any]], client: httpx.Client) -> None:
    url = artifacts(client, done[1])["model.pt2"]["url"]
    for beyond in ("bytes=45000-", "bytes=-0"):
        answer = client.get(url, headers={"Range": beyond})
        assert problem(answer) == (416, "bad_range")
        assert answer.headers["content-range"] == "bytes */45000"
    for ignored in ("bytes=5-1", "bytes=-", "lines=1-2", "bytes=0-1,3-4", f"bytes={'9' * 40}-"):
        assert client.get(url, headers={"Range": ignored}).status_code == 200


def test_a_link_needs_no_key_and_only_holds_for_its_file(
    done: tuple[Live, dict[str, Any]], client: httpx.Client
) -> None:
    live, job = done
    files = artifacts(client, job)
    link = client.post(f"{files['model.pt2']['url']}/link", json={"seconds": 600}).json()
    assert httpx.get(link["url"]).content == FILES["model.pt2"]
    assert httpx.head(link["url"]).status_code == 200
    query = parse_qs(urlsplit(link["url"]).query)
    given = {"expires": query["expires"][0], "signature": query["signature"][0]}
    for path, change in (
        (files["model.onnx"]["url"], {}),
        (files["model.pt2"]["url"], {"expires": str(int(given["expires"]) + 1)}),
        (files["model.pt2"]["url"], {"signature": "0" * 64}),
        (files["model.pt2"]["url"], {"signature": "é"}),
    ):
        assert problem(httpx.get(live.url + path, params={**given, **change})) == (401, "unauthorized")
    assert problem(client.post(f"{files['model.pt2']['url']}/link", json={"seconds": 3601})) == (422, "invalid_request")
    short = client.post(f"{files['model.pt2']['url']}/link", json={"seconds": 1}).json()
    until = time.monotonic() + 10
    while httpx.get(short["url"]).status_code != 401:
        assert time.monotonic() < until


def test_results_of_others_and_of_none(done: tuple[Live, dict[str, Any]], client: httpx.Client) -> None:
    live, job = done
    url = artifacts(client, job)["model.pt2"]["url"]
    with live.client(Scope.READ, Scope.WRITE, tenant="other") as other:
        assert problem(other.get(url)) == (404, "artifact_not_found")
        assert problem(other.post(f"{url}/link", json={"seconds": 1})) == (404, "artifact_not_found")
        for part in ("report", "report.html", "variants", "artifacts"):
            assert problem(other.get(f"/v1/jobs/{job['id']}/{part}")) == (404, "job_not_found")
    assert problem(client.get("/v1/artifacts/none")) == (404, "artifact_not_found")
    assert problem(client.get(f"{url[:-1]}x")) == (404, "artifact_not_found")
    looking = client.post("/v1/jobs", json={"kind": "inspect", "model": job["model"]}).json()
    ended(client, looking["id"])
    for part in ("report", "report.html", "variants"):
        assert problem(client.get(f"/v1/jobs/{looking['id']}/{part}")) == (404, "report_not_found")
    assert client.get(f"/v1/jobs/{looking['id']}/artifacts").json()["items"] == []


def test_files_go_with_their_job(done: tuple[Live, dict[str, Any]], client: httpx.Client) -> None:
    live, _ = done
    with live.client(tenant="gone") as mine:
        job = ended(mine, mine.post("/v1/jobs", json=asked(live, "gone")).json()["id"])
        url = artifacts(mine, job)["model.pt2"]["url"]
        link = mine.post(f"{url}/link", json={"seconds": 600}).json()["url"]
        before = mine.get("/v1/usage").json()["used"]["storage_bytes"]
        assert mine.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert problem(mine.get(url)) == (404, "artifact_not_found")
        assert problem(httpx.get(link)) == (404, "artifact_not_found")
        after = mine.get("/v1/usage").json()["used"]["storage_bytes"]
        assert before - after >= len(FILES["model.pt2"])


def test_names_are_saved_as_they_are_whatever_they_hold() -> None:
    assert attachment('a"b\r\n.pt2').startswith('attachment; filename="a_b__.pt2"')
    assert attachment("ü.pt2").endswith("filename*=UTF-8''%C3%BC.pt2")
