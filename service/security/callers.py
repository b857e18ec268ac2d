"""Who asks: the key of a request, checked against its hash, its expiry and its scopes."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from sqlalchemy import select

from aslconvert.service.context import Context, Ctx
from aslconvert.service.errors import Forbidden, TooManyRequests, Unauthorized
from aslconvert.service.keys.tables import api_keys
from aslconvert.service.security.rates import Rates, neighbourhood
from aslconvert.service.security.secrets import digest_of, same
from aslconvert.workers.database import Transaction

HASH = "api-key"

KEPT_SECONDS = 1.0
MOST_KEPT = 1000
_KEY = re.compile(r"asl_([0-9a-f]{16})_([0-9a-f]{64})")

bearer = HTTPBearer(auto_error=False, scheme_name="key", description="An API key: `asl_<id>_<secret>`.")


class Scope(StrEnum):
    """What a key may do; none includes another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Caller:
    """Who asks. Whatever belongs to another tenant does not exist for them."""

    key_id: str
    tenant: str
    scopes: frozenset[Scope]
    address: str = ""
    expires: datetime | None = None
    """When the key ends."""


class LastUses:
    """When keys were last used, kept here until somebody writes it down: no request waits for that."""

    def __init__(self) -> None:
        self._seen: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def note(self, key_id: str) -> None:
        """It was used just now."""
        with self._lock:
            self._seen[key_id] = datetime.now(UTC)

    def take(self) -> dict[str, datetime]:
        """What is to be written down."""
        with self._lock:
            seen, self._seen = self._seen, {}
        return seen


def caller(*scopes: Scope | str) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, whose key has one of these scopes.

    Raises:
        Unauthorized, Forbidden, TooManyRequests: 401, 403, 429.
    """
    wanted = frozenset(Scope(scope) for scope in scopes)

    async def check(
        request: Request, context: Ctx, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
    ) -> Caller:
        strangers: Rates = request.app.state.strangers
        found = await known(context, "" if given is None else given.credentials, address_of(request), strangers)
        count(request, found)
        if not wanted & found.scopes:
            raise Forbidden(sorted(wanted)[0])
        return found

    return check


def count(request: Request, found: Caller) -> None:
    """This request is that caller's. Raises TooManyRequests."""
    rates: Rates = request.app.state.rates
    wait = rates.take(found.key_id)
    if wait > 0:
        raise TooManyRequests(wait)
    request.app.state.last_uses.note(found.key_id)
    request.state.caller = found


def seen(context: Context, key: str) -> Caller | None:
    """Whose key it is, where that was found out within the last `KEPT_SECONDS`; without an address."""
    kept: Known = context.parts.setdefault(Known, Known())
    return kept.get(digest_of(key.encode()))


async def known(context: Context, key: str, address: str, strangers: Rates) -> Caller:
    """Whose key it is, as it was within the last `KEPT_SECONDS`.

    Raises:
        Unauthorized: nobody's; that takes a token of the address.
        TooManyRequests: its address had too many such keys: the database is not asked.
    """
    kept: Known = context.parts.setdefault(Known, Known())
    # By its hash: what is kept of keys shall be of no use to anybody.
    name = digest_of(key.encode())
    found = kept.get(name)
    if found is None:
        near = neighbourhood(address)
        wait = strangers.wait(near)
        if wait > 0:
            raise TooManyRequests(wait, who="address")
        try:
            found = await anyio.to_thread.run_sync(identify, context, key, address)
        except Unauthorized:
            strangers.take(near)
            raise
        kept.put(name, found)
    return replace(found, address=address)


class Known:
    """Callers that were identified a moment ago: most requests come from those, and need not ask the database.

    A revoked key is forgotten at once here, and within `KEPT_SECONDS` by other processes.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, Caller]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Caller | None:
        """The caller, if it was seen a moment ago."""
        with self._lock:
            until, found = self._kept.get(name, (0.0, None))
        return found if time.monotonic() < until else None

    def put(self, name: str, found: Caller) -> None:
        """It was identified just now."""
        with self._lock:
            self._kept[name] = (time.monotonic() + KEPT_SECONDS, found)
            self._kept.move_to_end(name)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)

    def forget(self) -> None:
        """A key was revoked."""
        with self._lock:
            self._kept.clear()


Reader = Annotated[Caller, Depends(caller(Scope.READ))]
Writer = Annotated[Caller, Depends(caller(Scope.WRITE))]
Admin = Annotated[Caller, Depends(caller(Scope.ADMIN))]
Operator = Annotated[Caller, Depends(caller(Scope.OPERATOR))]


def identify(context: Context, key: str, address: str) -> Caller:
    """Whose key it is. Raises Unauthorized, with the same answer whatever is wrong with it."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise Unauthorized
    key_id, secret = match.groups()

    def find(at: Transaction) -> Any:
        return at.connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()

    row = context.database.read(find)
    # Hashed also where there is no such key, so that the time does not tell.
    hashed = context.secrets.hexed(HASH, key_id, secret)
    right = same(hashed, row.digest if row is not None else "0" * 64)
    if row is None or not right or row.revoked is not None:
        raise Unauthorized
    if row.expires is not None and row.expires <= datetime.now(UTC):
        raise Unauthorized
    return Caller(row.id, row.tenant, frozenset(Scope(scope) for scope in row.scopes), address, row.expires)


def address_of(request: Request) -> str:
    """Where the request came from; behind a proxy uvicorn's --proxy-headers sees to it."""
    return request.client.host if request.client is not None else ""
