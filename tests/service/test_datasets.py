"""Data sets come in, are shown as a model would see them, and go with what was made of them."""

import base64
import io
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from live import Live, problem
from PIL import Image
from torch import Tensor, nn
from uploading import arrays, blob_hashes, pictures, until_sandboxed

from aslconvert.converter.ir.quiet import quiet


class Sees(nn.Module):
    """Takes pictures of 16x16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("seer") / "seer.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    with quiet():
        program = torch.export.export(Sees().eval(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
        torch.export.save(program, path)
    return path.read_bytes()


@pytest.fixture
def own(live: Live, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a tenant that only this test has."""
    with live.client(tenant=request.node.name[:100]) as client:
        yield client


def _post(client: httpx.Client, content: bytes, name: str = "data") -> dict[str, Any]:
    made = client.post("/v1/datasets", files={"file": ("data.zip", content)}, data={"name": name})
    assert made.status_code == 201, made.text
    return dict(made.json())


def _previewed(client: httpx.Client, url: str, **asked: Any) -> httpx.Response:
    """The answer once there is one."""
    until = time.monotonic() + 300
    while (answer := client.get(url, params=asked)).status_code == 202:
        assert answer.headers["retry-after"] == "1"
        assert answer.json() == {"state": "making"}
        assert time.monotonic() < until
        time.sleep(0.1)
    return answer


def test_a_data_set_tells_what_intake_found(own: httpx.Client) -> None:
    data = _post(own, pictures(seed=1), "animals")
    assert (data["name"], data["kind"], data["facts"]["container"]) == ("animals", "images", "zip")
    assert (data["facts"]["images"], data["facts"]["broken"]) == (16, 1)
    assert data["facts"]["broken_files"][0]["file"] == "'class0/broken0.png'"
    assert own.get("/v1/datasets").json() == {"items": [data], "next": None}
    assert own.get(data["links"]["self"]).json() == data
    assert own.delete(data["links"]["self"]).status_code == 204
    assert problem(own.get(data["links"]["self"])) == (404, "dataset_not_found")


def test_a_preview_shows_what_the_model_would_see(own: httpx.Client, seer: bytes) -> None:
    data = _post(own, pictures(seed=2))
    model = own.post("/v1/models", files={"file": ("seer.pt2", seer)}).json()
    url = data["links"]["preview"]
    answer = _previewed(own, url, model=model["id"], samples=3, mean=[0.5], std=[0.25])
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["samples"], told["total"], len(told["inputs"])) == (3, 16, 3)
    assert told["classes"] == {"class0": 8, "class1": 8}
    assert sum(told["splits"].values()) == 16
    assert [broken["file"] for broken in told["broken"]] == ["'class0/broken0.png'"]
    seen = told["inputs"][0]
    assert (seen["name"], seen["dtype"], seen["shape"]) == ("image", "float32", [3, 16, 16])
    # Bytes from 0 to 255, prepared as was asked: (x / 255 - 0.5) / 0.25.
    assert -2 <= seen["minimum"] < -1.5 < 1.5 < seen["maximum"] <= 2
    assert seen["label"] in told["classes"]
    picture = Image.open(io.BytesIO(base64.b64decode(seen["image"].partition(",")[2])))
    assert (picture.size, picture.mode) == ((16, 16), "RGB")
    started = time.monotonic()
    again = own.get(url, params={"model": model["id"], "samples": 3, "mean": [0.5], "std": [0.25]})
    assert (again.status_code, again.json()) == (200, told)
    # From the cache: making it takes seconds.
    assert time.monotonic() - started < 2


def test_data_that_the_model_cannot_take_is_told(own: httpx.Client, seer: bytes) -> None:
    model = own.post("/v1/models", files={"file": ("seer.pt2", seer)}).json()
    data = _post(own, arrays(seed=3, name="other"))
    assert problem(_previewed(own, data["links"]["preview"], model=model["id"])) == (422, "data_missing_input")
    without = _previewed(own, data["links"]["preview"]).json()
    assert {(seen["name"], tuple(seen["shape"])) for seen in without["inputs"]} == {("other", (3, 16, 16))}


def test_arrays_that_are_no_pictures_have_none(own: httpx.Client) -> None:
    file = io.BytesIO()
    chance = np.random.default_rng(4)
    labels = np.arange(20) % 3
    np.savez(file, wave=chance.random((20, 7), dtype=np.float32), label=labels)
    told = _previewed(own, _post(own, file.getvalue())["links"]["preview"], samples=2).json()
    assert [seen["image"] for seen in told["inputs"]] == [None, None]
    assert told["classes"] == {"0": 7, "1": 7, "2": 6}


def test_what_a_preview_cannot_be_asked(live: Live, own: httpx.Client) -> None:
    data = _post(own, arrays(seed=5))
    url = data["links"]["preview"]
    for wrong in ({"samples": 0}, {"samples": 1000}, {"size": "big"}, {"size": "99999"}, {"scale": "nan"}):
        assert own.get(url, params=wrong).status_code == 422
    assert problem(own.get(url, params={"model": "nothing"})) == (404, "model_not_found")
    with live.client(tenant="another") as other:
        assert problem(other.get(url)) == (404, "dataset_not_found")
        assert problem(other.delete(data["links"]["self"])) == (404, "dataset_not_found")


def test_a_preview_is_made_though_the_service_dies_and_goes_with_its_data(fresh: Callable[..., Live]) -> None:
    live = fresh()
    with live.client() as client:
        data = _post(client, arrays(seed=6))
        assert client.get(data["links"]["preview"]).status_code == 202
        until_sandboxed(live.folder)
        live.kill()
        with sqlite3.connect(live.folder / "jobs.db") as database:
            assert database.execute("SELECT state, attempts FROM previews").fetchall() == [("making", 1)]
        live.start()
        assert _previewed(client, data["links"]["preview"]).status_code == 200
        before = _held(live.folder)
        assert {"dataset", "preview"} == {kind for kind, _ in before}
        assert client.delete(data["links"]["self"]).status_code == 204
        assert _held(live.folder) == set()
        assert len(blob_hashes(live.folder)) == 2


def _held(folder: Path) -> set[tuple[str, str]]:
    with sqlite3.connect(folder / "jobs.db") as database:
        return set(database.execute("SELECT holder_kind, holder_id FROM blob_refs"))
