"""The headers of tus 1.0: what they say, and what is answered where they say nothing that can be read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from aslconvert.service.errors import ServiceError

if TYPE_CHECKING:
    from hashlib import _Hash

VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,creation-with-upload,checksum,termination,expiration"
ALGORITHMS: Final = "sha256"
BODY_TYPE: Final = "application/offset+octet-stream"
MOST_METADATA: Final = 4096
"""Bytes of Upload-Metadata as sent."""

KINDS: Final = ("model", "dataset")
_KNOWN: Final = frozenset({"kind", "filename", "name", "architecture", "sha256"})
# What browsers' libraries of tus send of their own accord.
_IGNORED: Final = frozenset({"filetype", "type", "relativePath"})
_ARCHITECTURE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*){0,3}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"[0-9]{1,19}")


class BadUpload(ServiceError):
    """A header of tus that is missing or cannot be read."""

    status = 400


class UnsupportedVersion(ServiceError):
    """The client speaks another tus."""

    status = 412

    def __init__(self) -> None:
        super().__init__(
            "tus_version",
            f"This speaks tus {VERSION}.",
            hint=f"Send `Tus-Resumable: {VERSION}`.",
            headers={"Tus-Version": VERSION, "Tus-Resumable": VERSION},
        )


class WrongType(ServiceError):
    """A body of another type than tus has."""

    status = 415

    def __init__(self) -> None:
        super().__init__("upload_type", f"Bytes of an upload are sent as {BODY_TYPE}.")


class ChecksumMismatch(ServiceError):
    """The bytes are not those that the client meant; none of them is kept."""

    status = 460

    def __init__(self) -> None:
        super().__init__(
            "checksum_mismatch", "The bytes do not have the checksum that was sent with them.", hint="Send them again."
        )


@dataclass(frozen=True)
class Metadata:
    """What is to become of an upload; ``text`` is Upload-Metadata as it was sent."""

    kind: str
    filename: str
    name: str | None = None
    architecture: str = ""
    sha256: str | None = None
    text: str = ""


class Checksum:
    """A promised SHA-256 of one request's bytes."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self._hash: _Hash = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """More of the bytes."""
        self._hash.update(data)

    @property
    def holds(self) -> bool:
        """Whether these were the bytes."""
        return self._hash.digest() == self._wanted


def check_version(headers: Mapping[str, str]) -> None:
    """Raises UnsupportedVersion unless the client says that it speaks this tus."""
    if headers.get("tus-resumable") != VERSION:
        raise UnsupportedVersion


def number(headers: Mapping[str, str], name: str) -> int:
    """The bytes that a header counts. Raises BadUpload."""
    text = headers.get(name, "")
    if not _NUMBER.fullmatch(text):
        raise BadUpload("upload_header", f"{name} is a number of bytes.")
    return int(text)


def checksum(headers: Mapping[str, str]) -> Checksum | None:
    """The promise of Upload-Checksum, if there is one. Raises BadUpload."""
    text = headers.get("upload-checksum")
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    if algorithm != ALGORITHMS:
        raise BadUpload("checksum_algorithm", "Checksums are sha256.", hint="Send `Upload-Checksum: sha256 <base64>`.")
    wanted = _decoded(encoded)
    if wanted is None or len(wanted) != hashlib.sha256().digest_size:
        raise BadUpload("upload_header", "Upload-Checksum is no sha256 in base64.")
    return Checksum(wanted)


def whole(headers: Mapping[str, str]) -> str | None:
    """The SHA-256 of the whole file that Repr-Digest (RFC 9530) promises, in hexadecimal. Raises BadUpload.

    Other algorithms are passed over, as the RFC has it.
    """
    for part in headers.get("repr-digest", "").split(","):
        algorithm, _, value = part.strip().partition("=")
        if algorithm != "sha-256":
            continue
        wanted = _decoded(value[1:-1]) if len(value) > 1 and value[0] == value[-1] == ":" else None
        if wanted is None or len(wanted) != hashlib.sha256().digest_size:
            raise BadUpload("upload_header", "Repr-Digest is no `sha-256=:<base64>:`.")
        return wanted.hex()
    return None


def metadata(text: str) -> Metadata:
    """Upload-Metadata, read: keys with values in base64, by commas. Raises BadUpload."""
    if len(text) > MOST_METADATA:
        raise BadUpload("upload_metadata", f"Upload-Metadata has at most {MOST_METADATA} bytes.")
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, encoded = part.partition(" ")
        value = _decoded(encoded)
        if value is None or key in found:
            raise BadUpload("upload_metadata", "Upload-Metadata is `key base64,key base64`, each key once.")
        try:
            found[key] = value.decode()
        except UnicodeDecodeError as error:
            raise BadUpload("upload_metadata", "The values of Upload-Metadata are UTF-8.") from error
    found = {key: value for key, value in found.items() if key not in _IGNORED}
    if unknown := sorted(set(found) - _KNOWN):
        hint = f"There are {', '.join(sorted(_KNOWN))}."
        raise BadUpload("upload_metadata", f"Upload-Metadata has no key {unknown[0][:64]!r}.", hint=hint)
    return described(**found, text=text)


def described(
    *,
    kind: str = "",
    filename: str = "",
    name: str | None = None,
    architecture: str = "",
    sha256: str | None = None,
    text: str = "",
) -> Metadata:
    """What a client says about an upload, checked. Raises BadUpload."""
    if kind not in KINDS:
        raise BadUpload("upload_metadata", f"The kind of an upload is {' or '.join(KINDS)}.")
    for told, most in ((filename, 255), (name, 200)):
        if told is not None and not (0 < len(told) <= most and told.isprintable()):
            raise BadUpload("upload_metadata", "An upload has a filename, of at most 255 printable characters.")
    if architecture and (kind != "model" or len(architecture) > 200 or not _ARCHITECTURE.fullmatch(architecture)):
        # It becomes part of the text that names a network: nothing in it may name a file.
        raise BadUpload("upload_metadata", "An architecture is a name such as resnet-18 or pytorchcv/resnet18.")
    if sha256 is not None and not _DIGEST.fullmatch(sha256):
        raise BadUpload("upload_metadata", "sha256 is 64 hexadecimal digits in lower case.")
    return Metadata(kind, filename, name or None, architecture, sha256, text)


def expires_header(expires: datetime) -> str:
    """Upload-Expires, in the words of HTTP."""
    return format_datetime(expires, usegmt=True)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
