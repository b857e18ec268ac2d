"""Models come in by one request or by tus, once for a tenant, and hostile ones are refused with intake's code."""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from live import Live, problem
from safetensors.torch import save
from torch import Tensor, nn
from uploading import Tus, blob_hashes, staged

from aslconvert.converter.ir.quiet import quiet

sys.path.insert(0, str(Path(__file__).parent.parent / "workers" / "intake"))

import corpus
import corpus_others
from corpus_parts import REBUILT, Attack


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image).mean(dim=(2, 3))


def exported(folder: Path, *, seed: int = 0) -> bytes:
    """A small .pt2 whose weights follow from the seed."""
    torch.manual_seed(seed)
    path = folder / f"tiny{seed}.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    with quiet():
        program = torch.export.export(Tiny().eval(), (torch.rand(2, 3, 5, 5),), dynamic_shapes=({0: batch},))
        torch.export.save(program, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return exported(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def own(live: Live, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a tenant that only this test has."""
    with live.client(tenant=request.node.name[:100]) as client:
        yield client


def _post(client: httpx.Client, content: bytes, **fields: str) -> httpx.Response:
    return client.post("/v1/models", files={"file": ("a.pt2", content)}, data=fields)


def test_one_request_makes_a_model_and_the_next_finds_it(live: Live, own: httpx.Client, tiny: bytes) -> None:
    made = _post(own, tiny, name="tiny")
    assert made.status_code == 201, made.text
    model = made.json()
    assert (model["name"], model["kind"], model["architecture"], model["bytes"]) == ("tiny", "pt2", None, len(tiny))
    assert model["facts"]["operators"]["torch.ops.aten.conv2d.default"] == 1
    assert model["links"]["self"] == f"/v1/models/{model['id']}" == made.headers["location"]
    again = _post(own, tiny, name="other name")
    assert (again.status_code, again.json()) == (200, model)
    by_tus = Tus(own).ended(Tus(own).whole(tiny, kind="model", filename="b.pt2"))
    assert by_tus["resource"] == {"type": "model", "id": model["id"], "url": f"/v1/models/{model['id']}"}
    assert own.get("/v1/models").json() == {"items": [model], "next": None}
    assert own.get("/v1/usage").json()["used"]["storage_bytes"] == len(tiny)
    assert model["sha256"] in blob_hashes(live.folder)


def test_each_tenant_has_its_own(live: Live, own: httpx.Client, tiny: bytes) -> None:
    mine = _post(own, tiny).json()
    with live.client(tenant="another") as other:
        assert problem(other.get(mine["links"]["self"])) == (404, "model_not_found")
        assert problem(other.delete(mine["links"]["self"])) == (404, "model_not_found")
        theirs = _post(other, tiny)
        assert theirs.status_code == 201
        assert theirs.json()["id"] != mine["id"]
        assert other.delete(theirs.json()["links"]["self"]).status_code == 204
    assert own.get(mine["links"]["self"]).json() == mine


def test_a_repeated_request_has_one_answer(own: httpx.Client, tiny: bytes) -> None:
    key = {"Idempotency-Key": "again"}
    answers = [
        own.post("/v1/models", files={"file": ("a.pt2", tiny)}, data={"name": "n"}, headers=key) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    other = own.post("/v1/models", files={"file": ("a.pt2", tiny)}, data={"name": "m"}, headers=key)
    assert problem(other) == (422, "idempotency_mismatch")


def test_requests_at_once_make_one_model(live: Live, own: httpx.Client, tiny: bytes) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: _post(own, tiny), range(4)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(own.get("/v1/models").json()["items"]) == 1


def test_weights_need_their_architecture(own: httpx.Client) -> None:
    weights = save({"weight": torch.zeros(3, 3)})
    assert problem(_post(own, weights)) == (422, "architecture_missing")
    made = _post(own, weights, architecture="pytorchcv/resnet18")
    assert (made.status_code, made.json()["architecture"], made.json()["kind"]) == (
        201,
        "pytorchcv/resnet18",
        "safetensors",
    )
    other = _post(own, weights, architecture="resnet-50")
    assert other.status_code == 201
    assert other.json()["id"] != made.json()["id"]


def test_a_program_needs_none(own: httpx.Client, tiny: bytes) -> None:
    assert problem(_post(own, tiny, architecture="resnet-18")) == (422, "architecture_unneeded")


def test_a_model_goes_with_its_blob_and_comes_again(own: httpx.Client, tiny: bytes) -> None:
    first = _post(own, tiny).json()
    assert own.delete(first["links"]["self"]).status_code == 204
    assert problem(own.get(first["links"]["self"])) == (404, "model_not_found")
    assert own.get("/v1/usage").json()["used"]["storage_bytes"] == 0
    assert _post(own, tiny).status_code == 201


def test_a_model_that_a_job_was_given_stays_unless_asked(own: httpx.Client, tiny: bytes) -> None:
    model = _post(own, tiny).json()
    asked = {"kind": "inspect", "model": model["id"]}
    job = own.post("/v1/jobs", json=asked).json()
    refused = own.delete(model["links"]["self"])
    assert problem(refused) == (409, "model_in_use")
    assert refused.json()["entry"] == job["id"]
    # One that has not ended is in the way even so.
    assert problem(own.delete(model["links"]["self"], params={"cascade": True})) == (409, "job_active")
    assert own.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    assert own.delete(model["links"]["self"], params={"cascade": True}).status_code == 204
    assert own.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_pages_run_from_new_to_old(own: httpx.Client, tmp_path: Path) -> None:
    made = [_post(own, exported(tmp_path, seed=seed)).json()["id"] for seed in (1, 2, 3)]
    first = own.get("/v1/models", params={"limit": 2}).json()
    second = own.get("/v1/models", params={"limit": 2, "cursor": first["next"]}).json()
    assert [one["id"] for one in first["items"] + second["items"]] == made[::-1]
    assert second["next"] is None
    assert problem(own.get("/v1/models", params={"cursor": "x"})) == (422, "bad_cursor")


def test_forms_that_cannot_be_read(live: Live, own: httpx.Client) -> None:
    before = staged(live.folder)
    assert problem(own.post("/v1/models", data={"name": "x"})) == (415, "upload_type")
    assert problem(own.post("/v1/models", files={"other": ("a", b"x")})) == (400, "bad_form")
    twice = [("file", ("a", b"x")), ("file", ("b", b"y"))]
    assert problem(own.post("/v1/models", files=twice)) == (400, "bad_form")
    assert problem(_post(own, b"x", unknown="1")) == (400, "bad_form")
    assert problem(_post(own, b"x", name="n" * 5000)) == (400, "bad_form")
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf'
    told = {"Content-Type": "multipart/form-data; boundary=b"}
    assert problem(own.post("/v1/models", content=cut, headers=told)) == (400, "bad_form")
    assert problem(own.post("/v1/models", content=b"nothing", headers=told)) == (400, "bad_form")
    assert staged(live.folder) == before


def test_a_form_takes_small_files_only(fresh: Callable[..., Live]) -> None:
    live = fresh(form_bytes=100_000)
    with live.client() as client:
        assert problem(_post(client, b"x" * 200_000)) == (413, "form_too_large")
        told = {"Content-Type": "multipart/form-data; boundary=b"}
        start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        unsized = client.post("/v1/models", content=iter([start, b"x" * 100_000, b"x" * 10]), headers=told)
        assert problem(unsized) == (413, "form_too_large")
        assert staged(live.folder) == []


def test_hostile_files_are_refused_with_intakes_code(
    live: Live, own: httpx.Client, tiny: bytes, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    every = [*corpus.corpus(tiny, str(canary)), *corpus_others.others(str(canary))]
    refused = [attack for attack in every if attack.code != REBUILT and len(attack.content) < 1 << 20]
    chosen = random.Random(5).sample(refused, 12)
    lock = threading.Lock()

    def judged(attack: Attack) -> tuple[str, str]:
        kind = "models" if attack.kind == "model" else "datasets"
        with lock:
            client = live.client(tenant="hostile")
        with client:
            answer = client.post(f"/v1/{kind}", files={"file": ("innocent.pt2", attack.content)})
            return attack.name, problem(answer)[1]

    with ThreadPoolExecutor(3) as pool:
        found = dict(pool.map(judged, chosen))
    assert found == {attack.name: attack.code for attack in chosen}
    by_tus = Tus(own).ended(Tus(own).whole(chosen[0].content, kind=chosen[0].kind.replace("data", "dataset")))
    assert (by_tus["state"], by_tus["error"]["code"], by_tus["resource"]) == ("refused", chosen[0].code, None)
    assert by_tus["error"]["hint"]
    assert not canary.exists()
    assert staged(live.folder) == []


def test_a_refusal_says_where_in_the_file(own: httpx.Client, tiny: bytes, tmp_path: Path) -> None:
    every = corpus.corpus(tiny, str(tmp_path / "canary"))
    attack = next(one for one in every if one.code == "layout_entry_unknown")
    answer = _post(own, attack.content)
    assert problem(answer) == (422, "layout_entry_unknown")
    told = answer.json()
    assert told["type"] == "https://aslconvert.dev/problems/layout-entry-unknown"
    assert told["kind"] == "user"
    assert "extra" in told["entry"]
