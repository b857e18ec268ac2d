"""Errors that nobody thought of are answered, told and counted like all others; blobs that are gone too."""

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import Request

from aslconvert.service.app import create_app
from aslconvert.service.reports import ranges
from aslconvert.service.settings import Settings
from aslconvert.workers.errors import BlobNotFound


def test_an_error_that_nobody_expects_passes_the_middleware(tmp_path: Path) -> None:
    app = create_app(Settings(folder=tmp_path, metrics=True, cors_origins=("https://app.example",)))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a secret of the inside")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/broken", headers={"Origin": "https://app.example"})

    answer = anyio.run(ask)
    assert (answer.status_code, answer.json()["kind"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    counted = app.state.figures.text().decode()
    assert 'aslconvert_requests_total{method="GET",route="/broken",status="500"} 1.0' in counted


@pytest.mark.parametrize("headers", [[], [(b"range", b"bytes=0-1")]])
def test_a_blob_that_is_gone_is_told_before_an_answer_begins(
    tmp_path: Path, headers: list[tuple[bytes, bytes]]
) -> None:
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": headers})
    with Settings(folder=tmp_path).places.opened() as (_, blobs):
        blob = blobs.put([b"some bytes"])
        told: dict[str, Any] = {"sha256": blob.hash, "size": blob.size, "media_type": "text/plain", "headers": {}}
        assert ranges.answer(blobs, request, **told).status_code == (206 if headers else 200)
        blobs.store.delete(blob.hash)
        with pytest.raises(BlobNotFound):
            ranges.answer(blobs, request, **told)
