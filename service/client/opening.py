"""How both clients open their connections."""

from __future__ import annotations

import os
import ssl
from typing import Any

import httpx

from aslconvert.service.client.connection import Connection
from aslconvert.service.client.errors import Misuse

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


def http_options(to: Connection) -> dict[str, Any]:
    """Arguments of httpx's clients. The key goes to this server alone: redirects are answers like others.

    Raises:
        Misuse: ``certificate_file``.
    """
    headers = {"User-Agent": "aslconvert"}
    if to.key is not None:
        headers["Authorization"] = f"Bearer {to.key}"
    return {
        "base_url": to.server,
        "headers": headers,
        "timeout": httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        "follow_redirects": False,
        # A proxy of the environment does not lead to this machine itself.
        "trust_env": not to.local,
        # By itself, since httpx would then not read which authorities to trust either.
        "verify": _authorities(to),
    }


def _authorities(to: Connection) -> ssl.SSLContext:
    """Whom to believe who the server is: SSL_CERT_FILE or SSL_CERT_DIR, else the public authorities."""
    if httpx.URL(to.server).scheme == "http":
        # Nobody is asked; reading all of the public ones takes tens of milliseconds.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one too
        named = os.environ.get("SSL_CERT_FILE")
        told = f"The certificates in SSL_CERT_FILE ({named!r}) cannot be read: {error}."
        raise Misuse("certificate_file", told, hint="Name a file of certificates in PEM, or unset it.") from error
