"""Every setting of the service, from the environment (``ASLCONVERT_...``) or from whoever makes the app."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.sandbox.limits import FOLDER_BYTES, FOLDER_FILES
from aslconvert.workers.settings import Places

_SECRET_BYTES = 32


class Settings(BaseSettings):
    """One deployment. Sizes are bytes, times seconds unless the name says otherwise.

    ``secret`` keys the hashes of API keys and signs links. It has no default: where none is given, the folder's own is
    used, which is made at the first start. Processes that share a database must share it too.
    """

    model_config = SettingsConfigDict(env_prefix="ASLCONVERT_", frozen=True, extra="forbid", validate_default=True)

    folder: Annotated[Path, AfterValidator(Path.absolute)] = Path("aslconvert-data")
    database_url: str | None = None
    storage: str | None = None
    redis: str | None = None
    secret: SecretStr | None = None
    embedded: bool = False
    """Whether this process also works off jobs, each in a sandbox process."""
    engine: str | None = None
    strict: bool = False
    public_url: str | None = None
    """How clients reach the service, for links; by default as the request did."""
    metrics: bool = False
    cors_origins: tuple[str, ...] = ()

    requests_per_minute: Annotated[int, Field(ge=1)] = 1200
    storage_bytes: Annotated[int, Field(ge=0)] = 64 << 30
    running_jobs: Annotated[int, Field(ge=1)] = 16
    """Of one tenant, queued or at work."""
    device_minutes: Annotated[int, Field(ge=0)] = 10_000
    """Of one tenant in a calendar month (UTC)."""
    open_uploads: Annotated[int, Field(ge=1)] = 64
    """Of one tenant, that are received or vetted."""
    api_keys: Annotated[int, Field(ge=1)] = 200
    """Of one tenant, that can still be used."""

    body_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    """Of requests that carry JSON; uploads have limits of their own."""
    job_bytes: Annotated[int, Field(ge=1)] = FOLDER_BYTES
    job_files: Annotated[int, Field(ge=1)] = FOLDER_FILES
    """All files of one job at work together, where ``embedded``."""
    upload_bytes: Annotated[int, Field(ge=1)] = 16 << 30
    form_bytes: Annotated[int, Field(ge=1)] = 64 << 20
    """Of an upload that comes in one request, as a form."""
    upload_seconds: Annotated[float, Field(gt=0)] = 86400.0
    """Of silence, after which an unfinished upload expires."""
    upload_stall_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Without a byte, after which a request that uploads is ended; what came is kept."""
    sandboxes: Annotated[int, Field(ge=1, le=64)] = 2
    """Uploads that are vetted and previews that are made at the same time, each in a process."""
    vetting_seconds: Annotated[float, Field(gt=0)] = 1800.0
    vetting_memory: Annotated[int, Field(ge=1)] = 4 << 30
    preview_seconds: Annotated[float, Field(gt=0)] = 300.0
    preview_memory: Annotated[int, Field(ge=1)] = 8 << 30
    retention_days: Annotated[int, Field(ge=1)] = 30
    """For which finished jobs and their artifacts are kept."""
    webhook_private: bool = False
    """Whether webhooks may go to private and loopback addresses."""
    webhook_retry_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Before the second try; each further pause is twice as long."""
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 15.0

    @property
    def places(self) -> Places:
        """Where jobs and blobs are."""
        return Places(folder=self.folder, database=self.database_url, storage=self.storage, redis=self.redis)


def master_secret(settings: Settings) -> bytes:
    """The secret that is set, or the folder's, made if there is none.

    Raises:
        UserError: ``bad_secret``, for fewer than 32 characters.
        InfrastructureError: ``secret_unreadable``.
    """
    if settings.secret is not None:
        given = settings.secret.get_secret_value().encode()
        if len(given) < _SECRET_BYTES:
            raise UserError("bad_secret", f"ASLCONVERT_SECRET has at least {_SECRET_BYTES} characters.")
        return given
    path = settings.folder / "secret"
    try:
        settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written beside and linked: of two processes that start at once one wins, and no reader sees half of it.
        beside = path.with_name(f".secret-{secrets.token_hex(8)}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(_SECRET_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            pass
        finally:
            beside.unlink()
        return path.read_bytes()
    except OSError as error:
        raise InfrastructureError("secret_unreadable", f"The folder's secret: {error.strerror}.") from error
