"""Limits of a tenant: in the number of its uploads and keys, read and set by operators over the API."""

from collections.abc import Callable

import httpx
import pytest
from live import Live, problem

from aslconvert.service.security.callers import Scope

TUS = {"Tus-Resumable": "1.0.0", "Upload-Metadata": "kind bW9kZWw=,filename YS5wdDI="}


@pytest.fixture
def small(fresh: Callable[..., Live]) -> Live:
    return fresh(open_uploads=2, api_keys=3)


def announced(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/uploads", headers={**TUS, "Upload-Length": "5"})


def test_uploads_on_their_way_have_a_number(small: Live) -> None:
    with small.client() as client:
        first, _ = announced(client), announced(client)
        assert problem(announced(client)) == (403, "quota_uploads")
        form = {"file": ("a.npz", b"whatever")}
        assert problem(client.post("/v1/datasets", files=form)) == (403, "quota_uploads")
        assert client.get("/v1/usage").json()["used"]["open_uploads"] == 2
        with small.client(tenant="other") as other:
            assert announced(other).status_code == 201
        assert client.delete(first.headers["location"], headers=TUS).status_code == 204
        assert announced(client).status_code == 201


def test_keys_have_a_number(small: Live) -> None:
    asked = {"name": "n", "scopes": ["read"]}
    with small.client() as client:
        used = client.get("/v1/usage").json()["used"]["api_keys"]
        made = [client.post("/v1/keys", json=asked) for _ in range(3 - used)]
        assert {answer.status_code for answer in made} == {201}
        assert problem(client.post("/v1/keys", json=asked)) == (403, "quota_keys")
        assert client.delete(f"/v1/keys/{made[0].json()['id']}").status_code == 204
        assert client.post("/v1/keys", json=asked).status_code == 201


def test_limits_of_a_tenant_are_told_and_set(small: Live) -> None:
    with small.client() as client, small.client(Scope.READ, Scope.WRITE, Scope.ADMIN, tenant="lab") as lab:
        assert client.get("/v1/tenants/lab/usage").json() == lab.get("/v1/usage").json()
        told = client.put("/v1/tenants/lab/limits", json={"open_uploads": 0, "device_minutes": 7}).json()
        assert (told["tenant"], told["quotas"]["open_uploads"], told["quotas"]["device_minutes"]) == ("lab", 0, 7)
        assert told["quotas"]["api_keys"] == 3
        assert problem(announced(lab)) == (403, "quota_uploads")
        # Whoever keeps a tenant's keys does not set its limits.
        assert problem(lab.put("/v1/tenants/lab/limits", json={})) == (403, "forbidden")
        assert client.put("/v1/tenants/lab/limits", json={}).json()["quotas"]["open_uploads"] == 2
        assert announced(lab).status_code == 201
        assert problem(client.put("/v1/tenants/lab/limits", json={"running_jobs": -1}))[0] == 422
        assert [entry["action"] for entry in client.get("/v1/audit").json()["items"]].count("tenant.limits") == 2


@pytest.mark.parametrize("written", ["lab/two", "lab%2Ftwo"])
def test_a_name_may_have_a_slash(small: Live, written: str) -> None:
    with small.client() as client, small.client(Scope.READ, tenant="lab/two") as lab:
        told = client.put(f"/v1/tenants/{written}/limits", json={"device_minutes": len(written)}).json()
        assert (told["tenant"], told["quotas"]["device_minutes"]) == ("lab/two", len(written))
        assert client.get(f"/v1/tenants/{written}/usage").json() == lab.get("/v1/usage").json() == told
