"""Where messages may go: addresses of the open network, looked at when the connection is made and not before."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import httpcore

from aslconvert.service.errors import ServiceError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotAllowed(Exception):
    """The name leads to no address that messages may go to."""


def check_url(url: str, *, private: bool) -> None:
    """Refuse at once what can never be told; names are looked up later.

    Raises:
        ServiceError: ``webhook_url``.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    schemes = {"https", "http"} if private else {"https"}
    readable = url.isascii() and url.isprintable() and " " not in url
    if not readable or parts.scheme not in schemes or not host or port == 0 or parts.username or parts.fragment:
        hint = "Give an https:// address without a user and a fragment."
        raise ServiceError("webhook_url", "Messages cannot go to this address.", hint=hint)
    literal = _literal(host)
    if not private and literal is not None and not is_open(literal):
        raise ServiceError("webhook_url", "Messages do not go to private addresses.", hint="Give a public address.")


def is_open(address: Address) -> bool:
    """Whether an address is of the open network, also the IPv4 address that it may stand for."""
    inner: list[Address | None] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        inner += [address.ipv4_mapped, address.sixtofour]
        inner += list(address.teredo or ())
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return all(one.is_global and not one.is_multicast for one in inner if one is not None)


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to the very address that was looked at: a name that leads elsewhere a moment later changes nothing."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection. Raises NotAllowed, and httpcore's errors."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = [str(entry[4][0]) for entry in found]
        usable = [one for one in addresses if self._private or is_open(ipaddress.ip_address(one.partition("%")[0]))]
        if not usable:
            raise NotAllowed(host)
        return self._inner.connect_tcp(usable[0], port, timeout, local_address, socket_options)

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """Never."""
        raise NotAllowed("a socket of this machine")


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # Forms such as 127.1 and 2130706433, which the system's own reader takes.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
