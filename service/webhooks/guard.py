"""Where messages may go: addresses of the open network, looked at when the connection is made and not before."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import httpcore

from aslconvert.service.errors import ServiceError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""Of IPv6 all that is routed in the open; what lies outside is this machine's, this site's or a translator's."""
_ISATAP = (0x5EFE, 0x02005EFE)
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
        last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address in _NAT64 or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            inner.append(last)
        if address not in _UNICAST and address not in _NAT64 and address.ipv4_mapped is None:
            return False
    return all(one.is_global and not one.is_multicast for one in inner if one is not None)


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to the very address that was looked at: a name that leads elsewhere a moment later changes nothing.

    A connection lives ``seconds``, whatever comes over it: timeouts of each read alone would wait for ever on a
    receiver that sends one byte at a time.
    """

    def __init__(self, *, private: bool, seconds: float = 20.0) -> None:
        self._private, self._seconds = private, seconds
        self._inner = httpcore.SyncBackend()
        self._open: set[_Bounded] = set()
        self._lock = threading.Lock()
        self._ended = False

    def abort(self) -> None:
        """End all connections, also those that somebody waits on in another thread; no more are made."""
        with self._lock:
            self._ended = True
            found = list(self._open)
        for stream in found:
            stream.abort()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection. Raises NotAllowed, and httpcore's errors."""
        until = time.monotonic() + self._seconds
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = [str(entry[4][0]) for entry in found]
        usable = [one for one in addresses if self._private or is_open(ipaddress.ip_address(one.partition("%")[0]))]
        if not usable:
            raise NotAllowed(host)
        most = max(0.001, min(until - time.monotonic(), self._seconds if timeout is None else timeout))
        made = self._inner.connect_tcp(usable[0], port, most, local_address, socket_options)
        stream = _Bounded(made, until, self)
        self.keep(stream)
        return stream

    def keep(self, stream: _Bounded) -> None:
        """It is open."""
        with self._lock:
            self._open.add(stream)
            ended = self._ended
        if ended:
            stream.abort()

    def forget(self, stream: _Bounded) -> None:
        """It is closed."""
        with self._lock:
            self._open.discard(stream)

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """Never."""
        raise NotAllowed("a socket of this machine")


class _Bounded(httpcore.NetworkStream):
    """A connection that ends at a moment, ``until`` of the monotonic clock."""

    def __init__(self, inner: httpcore.NetworkStream, until: float, backend: GuardedBackend) -> None:
        self._inner, self._until, self._backend = inner, until, backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As of any stream. Raises httpcore.ReadTimeout, also when its time is over."""
        return self._inner.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As of any stream. Raises httpcore.WriteTimeout, also when its time is over."""
        self._inner.write(buffer, self._left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The same connection, encrypted, with what is left of its time."""
        inner = self._inner.start_tls(ssl_context, server_hostname, self._left(timeout, httpcore.ConnectTimeout))
        stream = _Bounded(inner, self._until, self._backend)
        self._backend.keep(stream)
        self._backend.forget(self)
        return stream

    def close(self) -> None:
        """As of any stream."""
        self._backend.forget(self)
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        """As of any stream."""
        return self._inner.get_extra_info(info)

    def abort(self) -> None:
        """Wake whoever waits on it: closing alone does not."""
        # Of the class below TLS, whose own way would say goodbye first; it may have ended by itself.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._inner.get_extra_info("socket"), socket.SHUT_RDWR)

    def _left(self, timeout: float | None, error: type[Exception]) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise error("its time is over")
        return left if timeout is None else min(left, timeout)


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
