"""The Python client of the REST service: `Client` blocks, `AsyncClient` awaits. It imports no server and no torch."""

from aslconvert.service.client.awaiting import AsyncClient
from aslconvert.service.client.blocking import Client
from aslconvert.service.client.connection import Connection, connection
from aslconvert.service.client.errors import (
    Busy,
    ClientError,
    Conflict,
    DamagedDownload,
    JobFailed,
    Misuse,
    NotFound,
    Refused,
    Unauthorized,
    Unreachable,
    UploadFailed,
    WaitTimeout,
)
from aslconvert.service.client.records import (
    Artifact,
    Dataset,
    Event,
    Job,
    Key,
    Link,
    Missed,
    Model,
    Problem,
    Progress,
    Upload,
    Usage,
    Variant,
)
from aslconvert.service.client.retries import Retry

__all__ = [
    "Artifact",
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "Conflict",
    "Connection",
    "DamagedDownload",
    "Dataset",
    "Event",
    "Job",
    "JobFailed",
    "Key",
    "Link",
    "Missed",
    "Misuse",
    "Model",
    "NotFound",
    "Problem",
    "Progress",
    "Refused",
    "Retry",
    "Unauthorized",
    "Unreachable",
    "Upload",
    "UploadFailed",
    "Usage",
    "Variant",
    "WaitTimeout",
    "connection",
]
