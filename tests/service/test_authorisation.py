"""Who may do what: every route of the app, against every way in which a key can be wrong."""

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from live import ALL, Live, ended, problem
from test_jobs import asked

from aslconvert.service.app import create_app
from aslconvert.service.domains import ROUTERS
from aslconvert.service.security.callers import Scope
from aslconvert.service.settings import Settings

OPEN: frozenset[Scope] = frozenset()
READ, WRITE = frozenset({Scope.READ}), frozenset({Scope.WRITE})
KEEPER = frozenset({Scope.ADMIN, Scope.OPERATOR})

# What each route needs: one of these scopes; nothing where anybody may ask.
NEEDS: dict[tuple[str, str], frozenset[Scope]] = {
    ("GET", "/openapi.json"): OPEN,
    ("HEAD", "/openapi.json"): OPEN,
    ("GET", "/v1/health"): OPEN,
    ("GET", "/v1/health/ready"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("POST", "/v1/keys"): KEEPER,
    ("GET", "/v1/keys"): KEEPER,
    ("DELETE", "/v1/keys/{key_id}"): KEEPER,
    ("GET", "/v1/usage"): READ,
    ("GET", "/v1/tenants/{tenant}/usage"): frozenset({Scope.OPERATOR}),
    ("PUT", "/v1/tenants/{tenant}/limits"): frozenset({Scope.OPERATOR}),
    ("GET", "/v1/audit"): frozenset({Scope.OPERATOR}),
    ("OPTIONS", "/v1/uploads"): READ,
    ("POST", "/v1/uploads"): WRITE,
    ("HEAD", "/v1/uploads/{upload_id}"): WRITE,
    ("PATCH", "/v1/uploads/{upload_id}"): WRITE,
    ("DELETE", "/v1/uploads/{upload_id}"): WRITE,
    ("GET", "/v1/uploads/{upload_id}"): READ,
    ("POST", "/v1/models"): WRITE,
    ("GET", "/v1/models"): READ,
    ("GET", "/v1/models/{model_id}"): READ,
    ("DELETE", "/v1/models/{model_id}"): WRITE,
    ("GET", "/v1/models/{model_id}/variants"): READ,
    ("POST", "/v1/datasets"): WRITE,
    ("GET", "/v1/datasets"): READ,
    ("GET", "/v1/datasets/{dataset_id}"): READ,
    ("DELETE", "/v1/datasets/{dataset_id}"): WRITE,
    ("GET", "/v1/datasets/{dataset_id}/preview"): READ,
    ("POST", "/v1/jobs"): WRITE,
    ("GET", "/v1/jobs"): READ,
    ("GET", "/v1/jobs/{job_id}"): READ,
    ("DELETE", "/v1/jobs/{job_id}"): WRITE,
    ("POST", "/v1/jobs/{job_id}/cancel"): WRITE,
    ("POST", "/v1/jobs/{job_id}/retry"): WRITE,
    ("GET", "/v1/jobs/{job_id}/events"): READ,
    ("GET", "/v1/jobs/{job_id}/report"): READ,
    ("GET", "/v1/jobs/{job_id}/report.html"): READ,
    ("GET", "/v1/jobs/{job_id}/variants"): READ,
    ("GET", "/v1/jobs/{job_id}/artifacts"): READ,
    ("GET", "/v1/artifacts/{artifact_id}"): READ,
    ("HEAD", "/v1/artifacts/{artifact_id}"): READ,
    ("POST", "/v1/artifacts/{artifact_id}/link"): READ,
}
TUS = {"Tus-Resumable": "1.0.0"}


class World(NamedTuple):
    live: Live
    ids: dict[str, str]
    """Things of the tenant ``owner``, by the names of path parameters."""
    bodies: dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def world(memory: Path) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(dir=memory))
    live = Live(folder, requests_per_minute=1_000_000, embedded=True, engine="service_engine:run").start()
    with live.client(tenant="owner") as client:
        body = asked(live, "owner")
        job = ended(client, client.post("/v1/jobs", json=body).json()["id"])
        artifact = client.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"][0]["id"]
        upload = client.post(
            "/v1/uploads", headers={**TUS, "Upload-Length": "5", "Upload-Metadata": "kind bW9kZWw=,filename YS5wdDI="}
        )
        assert upload.status_code == 201, upload.text
        made = client.post("/v1/keys", json={"name": "owned", "scopes": ["read"]}).json()
    ids = {
        "job_id": job["id"],
        "artifact_id": artifact,
        "model_id": body["model"],
        "dataset_id": body["dataset"],
        "upload_id": upload.headers["location"].rpartition("/")[2],
        "key_id": made["id"],
        "tenant": "owner",
    }
    bodies: dict[tuple[str, str], Any] = {
        ("POST", "/v1/keys"): {"name": "n", "scopes": ["read"]},
        ("POST", "/v1/jobs"): body,
        ("POST", "/v1/artifacts/{artifact_id}/link"): {"seconds": 60},
        ("PUT", "/v1/tenants/{tenant}/limits"): {"running_jobs": 1000},
    }
    yield World(live, ids, bodies)
    live.close()


def send(world: World, route: tuple[str, str], key: str | None) -> httpx.Response:
    method, path = route
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if "uploads" in path:
        headers |= {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    if route == ("POST", "/v1/uploads"):
        headers |= {"Upload-Length": "5", "Upload-Metadata": "kind bW9kZWw=,filename YS5wdDI="}
    if path.endswith("/events"):
        headers["Accept"] = "application/json"
    url = world.live.url + path.format(**world.ids)
    return httpx.request(method, url, headers=headers, json=world.bodies.get(route), timeout=60)


def refused(answer: httpx.Response) -> tuple[int, str]:
    # An answer to HEAD has no body to say the code.
    return (answer.status_code, "") if answer.request.method == "HEAD" else problem(answer)


def test_every_route_is_known_here() -> None:
    own = {
        (method, path)
        for route in create_app(Settings()).routes
        if (path := getattr(route, "path", None))
        for method in getattr(route, "methods", None) or ()
    }
    assert own | {found for router in ROUTERS for found in routes_of(router)} == set(NEEDS)


def routes_of(router: APIRouter) -> Iterator[tuple[str, str]]:
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield from ((method, route.path_format) for method in route.methods or ())
        else:
            yield from routes_of(route.original_router)  # type: ignore[attr-defined]  # a router that was included


@pytest.mark.parametrize("route", [route for route, needs in NEEDS.items() if needs], ids=" ".join)
def test_a_route_needs_a_valid_key_with_its_scope(world: World, route: tuple[str, str]) -> None:
    live, needs = world.live, NEEDS[route]
    revoked = live.key(tenant="owner")
    with live.client(key=live.key()) as operator:
        assert operator.delete(f"/v1/keys/{revoked.split('_')[1]}").status_code == 204
    valid = live.key(tenant="owner")
    wrong = {
        "none": None,
        "unknown": f"asl_{'0' * 16}_{'0' * 64}",
        "of another": f"{valid[:-1]}{'0' if valid[-1] != '0' else '1'}",
        "cut": valid[:-1],
        "expired": live.key(tenant="owner", expires_in=timedelta(seconds=-1)),
        "revoked": revoked,
    }
    told = {name: refused(send(world, route, key)) for name, key in wrong.items()}
    expected = (401, "") if route[0] == "HEAD" else (401, "unauthorized")
    assert told == dict.fromkeys(wrong, expected)
    others = [scope for scope in ALL if scope not in needs]
    answer = send(world, route, live.key(*others, tenant="owner"))
    assert refused(answer) == ((403, "") if route[0] == "HEAD" else (403, "forbidden"))


@pytest.mark.parametrize(
    "route",
    [route for route in NEEDS if "{" in route[1] and not route[1].startswith(("/v1/keys/", "/v1/tenants/"))],
    ids=" ".join,
)
def test_things_of_another_tenant_do_not_exist(world: World, route: tuple[str, str]) -> None:
    live, ids = world.live, world.ids
    before = everything(world)
    # Even for one who may operate the whole service: operating is not reading what others uploaded.
    theirs = send(world, route, live.key(tenant="stranger"))
    assert theirs.status_code == 404
    assert everything(world) == before
    never = {name: value[:-1] + ("0" if value[-1] != "0" else "1") for name, value in ids.items()}
    nothing = send(world._replace(ids=never), route, live.key(tenant="stranger"))
    assert nothing.status_code == 404
    if route[0] != "HEAD":
        # The same but for the id: nothing tells that the thing exists.
        assert problem(theirs) == problem(nothing)


def test_things_of_another_tenant_cannot_be_given(world: World) -> None:
    live, ids = world.live, world.ids
    model, data = live.things("stranger", content=b"the stranger's")
    with live.client(tenant="stranger") as stranger:
        for given, code in (
            ({"model": model, "dataset": ids["dataset_id"]}, "dataset_not_found"),
            ({"model": ids["model_id"], "dataset": data}, "model_not_found"),
        ):
            body = {**world.bodies["POST", "/v1/jobs"], **given}
            assert problem(stranger.post("/v1/jobs", json=body)) == (404, code)
        preview = stranger.get(f"/v1/datasets/{data}/preview", params={"model": ids["model_id"]})
        assert problem(preview) == (404, "model_not_found")
        assert stranger.get("/v1/jobs").json()["items"] == []


def everything(world: World) -> list[int]:
    """That all things are there still, in the eyes of their owner."""
    with world.live.client(tenant="owner") as owner:
        paths = ("jobs/{job_id}", "models/{model_id}", "datasets/{dataset_id}", "uploads/{upload_id}")
        return [owner.get("/v1/" + path.format(**world.ids)).status_code for path in paths]


def test_keys_of_another_tenant_are_for_operators(world: World) -> None:
    route = ("DELETE", "/v1/keys/{key_id}")
    assert problem(send(world, route, world.live.key(Scope.ADMIN, tenant="stranger"))) == (404, "key_not_found")
    assert send(world, route, world.live.key(Scope.OPERATOR, tenant="stranger")).status_code == 204


@pytest.mark.parametrize("route", [route for route, needs in NEEDS.items() if not needs], ids=" ".join)
def test_open_routes_need_no_key(world: World, route: tuple[str, str]) -> None:
    assert send(world, route, None).status_code in ({404} if route[1] == "/metrics" else {200})
