"""The signature of a message: a time, and an HMAC of the time and the body with the secret that was given."""

from __future__ import annotations

import hmac

HEADER = "Aslconvert-Signature"


def signature(secret: str, body: bytes, *, at: int) -> str:
    """``t=<unix seconds>,v1=<hexadecimal HMAC-SHA256 of "t.body">``; receivers refuse times that are long ago."""
    return f"t={at},v1={hmac.digest(secret.encode(), f'{at}.'.encode() + body, 'sha256').hex()}"
