"""The client for programs that block."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from aslconvert.service.client.connection import Connection, connection
from aslconvert.service.client.core import Core
from aslconvert.service.client.downloads import Told as Fetched
from aslconvert.service.client.drivers import Driver
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


class Client:
    """A connection to a server; a context manager. One thread at a time.

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
        self._http = httpx.Client(**http_options(self.connection))
        self._driver = Driver(self._http)
        self._core = Core(self.connection, retry=retry or Retry(), sent=Sent(sent))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> dict[str, Any]:
        """What the server says of itself: {status, version}."""
        return self._driver.run(self._core.health())

    def usage(self) -> Usage:
        """Quotas and what is used of them."""
        return self._driver.run(self._core.usage())

    def upload_model(
        self, path: Path, *, name: str | None = None, architecture: str | None = None, progress: Uploaded | None = None
    ) -> Model:
        """Send a model and wait until it was looked into; bare weights need their ``architecture``.

        Goes on where an earlier process ended. Raises UploadFailed with the intake's code for what is refused.
        """
        return self._driver.run(self._core.upload_model(path, name=name, architecture=architecture, told=progress))

    def upload_dataset(self, path: Path, *, name: str | None = None, progress: Uploaded | None = None) -> Dataset:
        """As `upload_model`, for an archive of images or a file of arrays."""
        return self._driver.run(self._core.upload_dataset(path, name=name, told=progress))

    def upload(self, upload_id: str) -> Upload:
        """An upload as it stands."""
        return self._driver.run(self._core.upload(upload_id))

    def model(self, model_id: str) -> Model:
        """One model."""
        return self._driver.run(self._core.model(model_id))

    def models(self) -> Generator[Model, None, None]:
        """All models, newest first."""
        return self._driver.iterate(self._core.every(Model, "/v1/models"))

    def delete_model(self, model_id: str) -> None:
        """Delete a model that nothing uses."""
        self._driver.run(self._core.remove("models", model_id))

    def dataset(self, dataset_id: str) -> Dataset:
        """One data set."""
        return self._driver.run(self._core.dataset(dataset_id))

    def datasets(self) -> Generator[Dataset, None, None]:
        """All data sets, newest first."""
        return self._driver.iterate(self._core.every(Dataset, "/v1/datasets"))

    def preview(self, dataset_id: str, *, model: str | None = None, samples: int = 4, **preparation: Any) -> Preview:
        """What a model would see of data, waited for.

        ``preparation``: size ("N" or "HxW"), scale, mean, std, channels; without ``model`` the data as it is.
        """
        return self._driver.run(self._core.preview(dataset_id, model=model, samples=samples, preparation=preparation))

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a data set that nothing uses."""
        self._driver.run(self._core.remove("datasets", dataset_id))

    def submit(
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
        return self._driver.run(
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

    def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return self._driver.run(self._core.job(job_id))

    def jobs(
        self, *, state: str | None = None, kind: str | None = None, model: str | None = None
    ) -> Generator[Job, None, None]:
        """Jobs, newest first."""
        return self._driver.iterate(self._core.every(Job, "/v1/jobs", state=state, kind=kind, model=model))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; asking twice is the same."""
        return self._driver.run(self._core.cancel(job_id))

    def retry(self, job_id: str) -> Job:
        """A new job with what a failed, cancelled or expired one was given."""
        return self._driver.run(self._core.retry(job_id))

    def delete_job(self, job_id: str) -> None:
        """Delete an ended job and what came of it."""
        self._driver.run(self._core.remove("jobs", job_id))

    def follow(self, job_id: str, *, after: int = 0, timeout: float | None = None) -> Generator[Event, None, None]:
        """The job's events after number ``after``, each once, until it has ended; lost connections are made again.

        Raises WaitTimeout after ``timeout`` seconds.
        """
        return self._driver.iterate(self._core.follow(job_id, after=after, timeout=timeout))

    def wait(
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
        return self._driver.run(self._core.wait(job_id, timeout=timeout, check=check), listener)

    def events(self, job_id: str, *, after: int = 0) -> list[Event]:
        """At most 100 events after number ``after``."""
        return self._driver.run(self._core.events(job_id, after=after))

    def report(self, job_id: str) -> dict[str, Any]:
        """The report as the job wrote it."""
        return self._driver.run(self._core.report(job_id))

    def variants(self, job_id: str) -> list[Variant]:
        """What came of a job, with its artifacts."""
        return self._driver.run(self._core.variants(job_id))

    def artifacts(self, job_id: str) -> Generator[Artifact, None, None]:
        """Every file that a job wrote, those of no single variant too."""
        return self._driver.iterate(self._core.artifacts(job_id))

    def download(self, artifact: Artifact | str, target: Path, *, progress: Fetched | None = None) -> Path:
        """Fetch an artifact to the file ``target``, which appears whole and checked or not at all.

        Raises DamagedDownload when the bytes are not those promised, and OSError when they cannot be written.
        """
        return self._driver.run(self._core.download(artifact, target, progress))

    def link(self, artifact_id: str, *, seconds: int = 600) -> Link:
        """An address that gives an artifact without a key for so many seconds."""
        return self._driver.run(self._core.link(artifact_id, seconds=seconds))

    def create_key(
        self,
        name: str,
        *,
        scopes: Sequence[str] = ("read", "write"),
        expires_in_days: int | None = None,
        tenant: str | None = None,
    ) -> Key:
        """A new key; its ``key`` is told only here."""
        return self._driver.run(
            self._core.make_key(name, scopes=scopes, expires_in_days=expires_in_days, tenant=tenant)
        )

    def keys(self) -> Generator[Key, None, None]:
        """The keys of the tenant."""
        return self._driver.iterate(self._core.every(Key, "/v1/keys"))

    def revoke_key(self, key_id: str) -> None:
        """Revoke a key."""
        self._driver.run(self._core.remove("keys", key_id))

    def audit(self) -> Generator[AuditEntry, None, None]:
        """Changes and denied requests of all tenants, newest first; for operators."""
        return self._driver.iterate(self._core.every(AuditEntry, "/v1/audit"))
