"""Keyed hashes, each for one purpose only, from the one secret of a deployment."""

from __future__ import annotations

import hashlib
import hmac


class Secrets:
    """What the master secret is used for; a value made for one purpose says nothing to another."""

    def __init__(self, master: bytes) -> None:
        self._master = master

    def keyed(self, purpose: str, *parts: str) -> bytes:
        """HMAC-SHA256 of the parts, 32 bytes; the parts are told apart whatever they contain."""
        key = hmac.digest(self._master, b"aslconvert:" + purpose.encode(), "sha256")
        told = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts)
        return hmac.digest(key, told, "sha256")

    def hexed(self, purpose: str, *parts: str) -> str:
        """The same in hexadecimal."""
        return self.keyed(purpose, *parts).hex()


def same(one: str, other: str) -> bool:
    """Compared in a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def digest_of(text: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text).hexdigest()
