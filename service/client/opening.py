"""How both clients open their connections."""

from __future__ import annotations

from typing import Any

import httpx

from aslconvert.service.client.connection import Connection

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


def http_options(to: Connection) -> dict[str, Any]:
    """Arguments of httpx's clients. The key goes to this server alone: redirects are answers like others."""
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
    }
