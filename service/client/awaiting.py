"""The client for programs that await."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from aslconvert.service.client.connection import Connection, connection
from aslconvert.service.client.core import Core
from aslconvert.service.client.downloads import Told as Fetched
from aslconvert.service.client.drivers import AsyncDriver
from aslconvert.service.client.opening import http_options
from aslconvert.service.client.records import (
    Artifact,
    AuditEntry,
    Dataset,
    Event,
    Job,
    Key,
    Link,
    Model,
    Preview,
    Upload,
    Usage,
    Variant,
)
from aslconvert.service.client.retries import Retry
from aslconvert.service.client.sent import Sent
from aslconvert.service.client.uploads import Told as Uploaded


class AsyncClient:
    """As `Client`, for asyncio; a context manager.

    ``server`` and ``key`` are found as `connection` says; ``sent`` names the folder that remembers unfinished uploads.
    Every method may raise Unreachable and Refused of `errors`; ids are those that the server gave.
    """

    def __init__(
        self,
        server: str | None = None,
        key: str | None = None,
        *,
        key_file: Path | None = None,
        retry: Retry | None = None,
        sent: Path | None = None,
    ) -> None:
        self.connection: Connection = connection(server, key, key_file=key_file)
        self._http = httpx.AsyncClient(**http_options(self.connection))
        self._driver = AsyncDriver(self._http)
        self._core = Core(self.connection, retry=retry or Retry(), sent=Sent(sent))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def health(self) -> dict[str, Any]:
        """What the server says of itself: {status, version}."""
        return await self._driver.run(self._core.health())

    async def usage(self) -> Usage:
        """Quotas and what is used of them."""
        return await self._driver.run(self._core.usage())

    async def upload_model(
        self, path: Path, *, name: str | None = None, architecture: str | None = None, progress: Uploaded | None = None
    ) -> Model:
        """Send a model and wait until it was looked into; bare weights need their ``architecture``.

        Goes on where an earlier process ended. Raises UploadFailed with the intake's code for what is refused.
        """
        return await self._driver.run(
            self._core.upload_model(path, name=name, architecture=architecture, told=progress)
        )

    async def upload_dataset(self, path: Path, *, name: str | None = None, progress: Uploaded | None = None) -> Dataset:
        """As `upload_model`, for an archive of images or a file of arrays."""
        return await self._driver.run(self._core.upload_dataset(path, name=name, told=progress))

    async def upload(self, upload_id: str) -> Upload:
        """An upload as it stands."""
        return await self._driver.run(self._core.upload(upload_id))

    async def model(self, model_id: str) -> Model:
        """One model."""
        return await self._driver.run(self._core.model(model_id))

    def models(self) -> AsyncGenerator[Model, None]:
        """All models, newest first."""
        return self._driver.iterate(self._core.every(Model, "/v1/models"))

    async def delete_model(self, model_id: str) -> None:
        """Delete a model that nothing uses."""
        await self._driver.run(self._core.remove("models", model_id))

    async def dataset(self, dataset_id: str) -> Dataset:
        """One data set."""
        return await self._driver.run(self._core.dataset(dataset_id))

    def datasets(self) -> AsyncGenerator[Dataset, None]:
        """All data sets, newest first."""
        return self._driver.iterate(self._core.every(Dataset, "/v1/datasets"))

    async def preview(
        self, dataset_id: str, *, model: str | None = None, samples: int = 4, **preparation: Any
    ) -> Preview:
        """What a model would see of data, waited for.

        ``preparation``: size ("N" or "HxW"), scale, mean, std, channels; without ``model`` the data as it is.
        """
        return await self._driver.run(
            self._core.preview(dataset_id, model=model, samples=samples, preparation=preparation)
        )

    async def delete_dataset(self, dataset_id: str) -> None:
        """Delete a data set that nothing uses."""
        await self._driver.run(self._core.remove("datasets", dataset_id))

    async def submit(
        self,
        *,
        model: str,
        dataset: str | None = None,
        kind: str = "convert",
        options: Mapping[str, Any] | None = None,
        webhook: Mapping[str, str] | None = None,
        max_attempts: int | None = None,
        device: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Start a job; ``options`` are those of a conversion by name, ``webhook`` holds url and secret.

        With ``device`` "cuda" it waits for a worker that has a GPU; else any worker takes it.

        The same ``idempotency_key`` and words give the same job, however often they are sent.
        """
        return await self._driver.run(
            self._core.submit(
                kind=kind,
                model=model,
                dataset=dataset,
                options=options,
                webhook=webhook,
                max_attempts=max_attempts,
                device=device,
                idempotency_key=idempotency_key,
            )
        )

    async def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return await self._driver.run(self._core.job(job_id))

    def jobs(
        self, *, state: str | None = None, kind: str | None = None, model: str | None = None
    ) -> AsyncGenerator[Job, None]:
        """Jobs, newest first."""
        return self._driver.iterate(self._core.every(Job, "/v1/jobs", state=state, kind=kind, model=model))

    async def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; asking twice is the same."""
        return await self._driver.run(self._core.cancel(job_id))

    async def retry(self, job_id: str) -> Job:
        """A new job with what a failed, cancelled or expired one was given."""
        return await self._driver.run(self._core.retry(job_id))

    async def delete_job(self, job_id: str) -> None:
        """Delete an ended job and what came of it."""
        await self._driver.run(self._core.remove("jobs", job_id))

    def follow(self, job_id: str, *, after: int = 0, timeout: float | None = None) -> AsyncGenerator[Event, None]:
        """The job's events after number ``after``, each once, until it has ended; lost connections are made again.

        Raises WaitTimeout after ``timeout`` seconds.
        """
        return self._driver.iterate(self._core.follow(job_id, after=after, timeout=timeout))

    async def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        check: bool = True,
        listener: Callable[[Event], None] | None = None,
    ) -> Job:
        """The job when it has ended; ``listener`` gets its events.

        Raises WaitTimeout after ``timeout`` seconds, and with ``check`` JobFailed for a job without a result.
        """
        return await self._driver.run(self._core.wait(job_id, timeout=timeout, check=check), listener)

    async def events(self, job_id: str, *, after: int = 0) -> list[Event]:
        """At most 100 events after number ``after``."""
        return await self._driver.run(self._core.events(job_id, after=after))

    async def report(self, job_id: str) -> dict[str, Any]:
        """The report as the job wrote it."""
        return await self._driver.run(self._core.report(job_id))

    async def variants(self, job_id: str) -> list[Variant]:
        """What came of a job, with its artifacts."""
        return await self._driver.run(self._core.variants(job_id))

    def artifacts(self, job_id: str) -> AsyncGenerator[Artifact, None]:
        """Every file that a job wrote, those of no single variant too."""
        return self._driver.iterate(self._core.artifacts(job_id))

    async def download(self, artifact: Artifact | str, target: Path, *, progress: Fetched | None = None) -> Path:
        """Fetch an artifact to the file ``target``, which appears whole and checked or not at all.

        Raises DamagedDownload when the bytes are not those promised, and OSError when they cannot be written.
        """
        return await self._driver.run(self._core.download(artifact, target, progress))

    async def link(self, artifact_id: str, *, seconds: int = 600) -> Link:
        """An address that gives an artifact without a key for so many seconds."""
        return await self._driver.run(self._core.link(artifact_id, seconds=seconds))

    async def create_key(
        self,
        name: str,
        *,
        scopes: Sequence[str] = ("read", "write"),
        expires_in_days: int | None = None,
        tenant: str | None = None,
    ) -> Key:
        """A new key; its ``key`` is told only here."""
        return await self._driver.run(
            self._core.make_key(name, scopes=scopes, expires_in_days=expires_in_days, tenant=tenant)
        )

    def keys(self) -> AsyncGenerator[Key, None]:
        """The keys of the tenant."""
        return self._driver.iterate(self._core.every(Key, "/v1/keys"))

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key."""
        await self._driver.run(self._core.remove("keys", key_id))

    def audit(self) -> AsyncGenerator[AuditEntry, None]:
        """Changes and denied requests of all tenants, newest first; for operators."""
        return self._driver.iterate(self._core.every(AuditEntry, "/v1/audit"))
