"""Which server to ask and with which key: what the caller names, else the environment, else this machine's own."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from aslconvert.service.client.errors import Misuse

SERVER_VARIABLE = "ASLCONVERT_SERVER"
KEY_VARIABLE = "ASLCONVERT_KEY"
FOLDER_VARIABLE = "ASLCONVERT_FOLDER"
DEFAULT_SERVER = "http://127.0.0.1:8765"
DEFAULT_FOLDER = "aslconvert-data"
KEY_FILE = "key"
"""Where `aslconvert serve` leaves its first key, in its folder."""

_KEY = re.compile(r"asl_[A-Za-z0-9]+_[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Connection:
    """A server's address without a path's last slash, and the key to show it; ``key`` is None where there is none."""

    server: str
    key: str | None = field(default=None, repr=False)
    key_from: str = "nowhere"
    """Where the key was found, for whoever has to find out why it is refused."""

    @property
    def key_id(self) -> str:
        """The part of the key that is no secret."""
        return "" if self.key is None else self.key.split("_")[1]

    @property
    def local(self) -> bool:
        """Whether the server is this machine's own."""
        return is_local(self.server)


def connection(server: str | None = None, key: str | None = None, *, key_file: Path | None = None) -> Connection:
    """The server and the key to use.

    A key comes from ``key``, else ``key_file``, else ``ASLCONVERT_KEY``, else, for a server of this machine only, the
    file that `aslconvert serve` left in its folder: a key of this machine is shown to no other.

    Raises:
        Misuse: ``server``, ``key``, ``key_file``.
    """
    address = (server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER).rstrip("/")
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise Misuse("server", f"{address!r} is no address: {error}.", hint="Write http://HOST:PORT.") from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise Misuse("server", f"{address!r} is no server.", hint="Write http://HOST:PORT or https://HOST.")
    if url.userinfo:
        raise Misuse("server", "A server's address holds no password.", hint="Give the key in a file.")
    found, where = _found(address, key, key_file)
    if not found:
        return Connection(address)
    if not _KEY.fullmatch(found.strip()):
        raise Misuse("key", f"The key from {where} is not one of this service.", hint="A key reads asl_ID_SECRET.")
    return Connection(address, found.strip(), where)


def _found(address: str, key: str | None, key_file: Path | None) -> tuple[str | None, str]:
    """The key and where it is from."""
    if key is not None:
        return key, "the call"
    if key_file is not None:
        return _read(key_file), f"the key file '{key_file}'"
    if named := os.environ.get(KEY_VARIABLE):
        return named, f"the variable {KEY_VARIABLE}"
    left = Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER) / KEY_FILE
    if is_local(address) and left.is_file():
        return _read(left), f"'{left}', which serve left"
    return None, "nowhere"


def is_local(server: str) -> bool:
    """Whether the address is a loopback one."""
    host = httpx.URL(server).host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            # Bounded: what is named may be no key file at all.
            return file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        told = f"The key file '{path}' cannot be read: {error}."
        raise Misuse("key_file", told, hint="Name a file that holds one key.") from error
