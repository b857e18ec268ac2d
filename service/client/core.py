"""Every call of the service as steps, written once for both clients."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aslconvert.service.client import downloads, following, uploads
from aslconvert.service.client.connection import Connection
from aslconvert.service.client.errors import JobFailed, Misuse
from aslconvert.service.client.records import (
    Artifact,
    Dataset,
    Event,
    Job,
    Key,
    Link,
    Listing,
    Model,
    Preview,
    Record,
    Upload,
    Usage,
    Variant,
)
from aslconvert.service.client.retries import Retry, call, retry_after
from aslconvert.service.client.sent import Sent
from aslconvert.service.client.steps import Emit, Pause, Reply, Request, Steps

R = TypeVar("R", bound=Record)


class Core:
    """Steps of one connection; ids that come from the caller become parts of paths only when they are plain."""

    def __init__(self, to: Connection, *, retry: Retry, sent: Sent) -> None:
        self._of = f"{to.server} {to.key_id}"
        self._retry = retry
        self._sent = sent

    def _call(self, method: str, path: str, **more: Any) -> Steps[Reply]:
        return call(Request(method=method, path=path, **more), self._retry)

    def _get(self, record: type[R], path: str) -> Steps[R]:
        reply = yield from self._call("GET", path)
        return record.model_validate_json(reply.body)

    def _make(self, path: str, body: Mapping[str, Any], key: str | None = None) -> Steps[Reply]:
        # One key for all tries: a try whose answer was lost is not carried out a second time.
        return self._call("POST", path, json=dict(body), headers={"Idempotency-Key": key or uuid.uuid4().hex})

    def every(self, record: type[R], path: str, **filters: str | None) -> Steps[None]:
        """Emit every item of a list, page after page."""
        params = {name: value for name, value in filters.items() if value is not None}
        cursor: str | None = None
        while True:
            given = params if cursor is None else {**params, "cursor": cursor}
            reply = yield from self._call("GET", path, params={**given, "limit": "100"})
            page = Listing[record].model_validate_json(reply.body)  # type: ignore[valid-type]  # a class at run time
            for item in page.items:
                yield Emit(item)
            cursor = page.next
            if cursor is None:
                return

    def health(self) -> Steps[dict[str, Any]]:
        """What the server says of itself."""
        reply = yield from self._call("GET", "/v1/health")
        return _json(reply)

    def usage(self) -> Steps[Usage]:
        """Quotas and what is used of them."""
        return self._get(Usage, "/v1/usage")

    def upload_model(
        self, path: Path, *, name: str | None, architecture: str | None, told: uploads.Told | None
    ) -> Steps[Model]:
        """Send a model."""
        about = {"kind": "model", "name": name, "architecture": architecture}
        resource = yield from self._upload(path, about, told)
        return (yield from self.model(resource))

    def upload_dataset(self, path: Path, *, name: str | None, told: uploads.Told | None) -> Steps[Dataset]:
        """Send data."""
        resource = yield from self._upload(path, {"kind": "dataset", "name": name}, told)
        return (yield from self.dataset(resource))

    def _upload(self, path: Path, about: Mapping[str, str | None], told: uploads.Told | None) -> Steps[str]:
        metadata = {name: value for name, value in about.items() if value is not None}
        found = yield from uploads.upload(path, metadata, retry=self._retry, sent=self._sent, of=self._of, told=told)
        return found.id

    def upload(self, upload_id: str) -> Steps[Upload]:
        """An upload as it stands."""
        return self._get(Upload, f"/v1/uploads/{_plain(upload_id)}")

    def model(self, model_id: str) -> Steps[Model]:
        """One model."""
        return self._get(Model, f"/v1/models/{_plain(model_id)}")

    def dataset(self, dataset_id: str) -> Steps[Dataset]:
        """One data set."""
        return self._get(Dataset, f"/v1/datasets/{_plain(dataset_id)}")

    def preview(
        self, dataset_id: str, *, model: str | None, samples: int, preparation: Mapping[str, Any]
    ) -> Steps[Preview]:
        """What a model would see of data, once it was made."""
        given = {"model": model, "samples": samples, **preparation}
        params = {name: _param(value) for name, value in given.items() if value is not None}
        while True:
            reply = yield from self._call("GET", f"/v1/datasets/{_plain(dataset_id)}/preview", params=params)
            if reply.status != 202:
                return Preview.model_validate_json(reply.body)
            yield Pause(retry_after(reply.headers.get("retry-after")) or 1.0)

    def remove(self, kind: str, thing_id: str) -> Steps[None]:
        """Delete a model, data set, job or key."""
        yield from self._call("DELETE", f"/v1/{kind}/{_plain(thing_id)}")

    def submit(
        self,
        *,
        kind: str,
        model: str,
        dataset: str | None,
        options: Mapping[str, Any] | None,
        webhook: Mapping[str, str] | None,
        max_attempts: int | None,
        device: str | None,
        idempotency_key: str | None,
    ) -> Steps[Job]:
        """Start a job."""
        body: dict[str, Any] = {"kind": kind, "model": model, "dataset": dataset, "options": dict(options or {})}
        if webhook is not None:
            body["webhook"] = dict(webhook)
        if max_attempts is not None:
            body["max_attempts"] = max_attempts
        if device is not None:
            body["device"] = device
        reply = yield from self._make("/v1/jobs", body, idempotency_key)
        return Job.model_validate_json(reply.body)

    def job(self, job_id: str) -> Steps[Job]:
        """One job."""
        return self._get(Job, f"/v1/jobs/{_plain(job_id)}")

    def cancel(self, job_id: str) -> Steps[Job]:
        """Ask a job to stop; asking twice is the same."""
        reply = yield from self._make(f"/v1/jobs/{_plain(job_id)}/cancel", {})
        return Job.model_validate_json(reply.body)

    def retry(self, job_id: str) -> Steps[Job]:
        """A new job with what an ended one was given."""
        reply = yield from self._make(f"/v1/jobs/{_plain(job_id)}/retry", {})
        return Job.model_validate_json(reply.body)

    def follow(self, job_id: str, *, after: int = 0, timeout: float | None = None) -> Steps[Job]:
        """Emit the job's events until it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return following.follow(_plain(job_id), retry=self._retry, after=after, deadline=deadline)

    def wait(self, job_id: str, *, timeout: float | None, check: bool) -> Steps[Job]:
        """Emit the job's events and give it when it has ended; ``check`` raises for one without a result."""
        ended = yield from self.follow(job_id, timeout=timeout)
        if check and ended.state != "succeeded":
            raise JobFailed(ended)
        return ended

    def events(self, job_id: str, *, after: int = 0) -> Steps[list[Event]]:
        """At most 100 events after number ``after``."""
        path = f"/v1/jobs/{_plain(job_id)}/events"
        wanted = {"after": str(after), "limit": "100"}
        reply = yield from self._call("GET", path, params=wanted, headers={"Accept": "application/json"})
        return list(Listing[Event].model_validate_json(reply.body).items)

    def report(self, job_id: str) -> Steps[dict[str, Any]]:
        """The report as it was written."""
        reply = yield from self._call("GET", f"/v1/jobs/{_plain(job_id)}/report")
        return _json(reply)

    def variants(self, job_id: str) -> Steps[list[Variant]]:
        """What came of a job."""
        reply = yield from self._call("GET", f"/v1/jobs/{_plain(job_id)}/variants")
        return list(Listing[Variant].model_validate_json(reply.body).items)

    def artifacts(self, job_id: str) -> Steps[None]:
        """Emit every file of a job."""
        return self.every(Artifact, f"/v1/jobs/{_plain(job_id)}/artifacts")

    def link(self, artifact_id: str, *, seconds: int) -> Steps[Link]:
        """A signed address of an artifact."""
        reply = yield from self._make(f"/v1/artifacts/{_plain(artifact_id)}/link", {"seconds": seconds})
        return Link.model_validate_json(reply.body)

    def download(self, artifact: Artifact | str, target: Path, told: downloads.Told | None) -> Steps[Path]:
        """Fetch an artifact to a file."""
        promised = artifact.sha256 if isinstance(artifact, Artifact) else None
        path = f"/v1/artifacts/{_plain(artifact.id if isinstance(artifact, Artifact) else artifact)}"
        return downloads.download(path, target, retry=self._retry, sha256=promised, told=told)

    def make_key(
        self, name: str, *, scopes: Sequence[str], expires_in_days: int | None, tenant: str | None
    ) -> Steps[Key]:
        """A new key."""
        body: dict[str, Any] = {"name": name, "scopes": list(scopes)}
        if expires_in_days is not None:
            body["expires_in_days"] = expires_in_days
        if tenant is not None:
            body["tenant"] = tenant
        reply = yield from self._make("/v1/keys", body)
        return Key.model_validate_json(reply.body)


def _json(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body)
    return found


def _param(value: Any) -> str | list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else str(value)


def _plain(thing_id: str) -> str:
    if not thing_id or not all(char.isalnum() or char in "-_." for char in thing_id) or thing_id.strip(".") == "":
        raise Misuse("bad_id", f"{thing_id!r} is no id.", hint="An id has letters, digits, - and _ only.")
    return thing_id
