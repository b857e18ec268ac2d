"""Requests that may come twice: the answer is stored in the transaction of what it tells of, and given again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Header
from sqlalchemy import select

from aslconvert.service.context import Context
from aslconvert.service.errors import ServiceError
from aslconvert.service.keys.tables import request_keys
from aslconvert.service.security.callers import Caller
from aslconvert.service.security.secrets import digest_of
from aslconvert.workers.database import Transaction
from aslconvert.workers.database.base import insert_into
from aslconvert.workers.errors import IdempotencyMismatch, InfrastructureError

HEADER = "Idempotency-Key"
_TRIES = 3


@dataclass(frozen=True)
class Answer:
    """What a request that creates something is told."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class _Taken(Exception):
    """Another transaction stored the key first: roll back and look again."""


async def _given(
    key: Annotated[str | None, Header(alias=HEADER, description="Makes a repeated request harmless.")] = None,
) -> str | None:
    if key is not None and (not 0 < len(key) <= 255 or not key.isprintable()):
        raise ServiceError("bad_idempotency_key", "An idempotency key has 1 to 255 printable characters.")
    return key


RequestKey = Annotated[str | None, Depends(_given)]
"""A handler's parameter: the request's Idempotency-Key, if it has one."""


def once(
    context: Context,
    caller: Caller,
    key: str | None,
    *,
    operation: str,
    asked: Any,
    work: Callable[[Transaction], Answer],
) -> Answer:
    """The answer of ``work``, or the one that the same key was given before.

    ``work`` runs in one transaction, together with the storing of its answer: either both are there afterwards or
    neither, also if the process is killed. A request that comes while another with its key is at work waits for it.
    It may be run again after a rollback. ``operation`` and ``asked`` (JSON) say what is asked for.

    Raises:
        IdempotencyMismatch: the key was used with something else (422).
    """
    if key is None:
        return context.database.write(work)
    # Only a hash is kept: some answers are sealed with the key itself.
    name = {"scope": caller.key_id, "key_hash": digest_of(key.encode())}
    payload_hash = digest_of(json.dumps([operation, asked], sort_keys=True, default=str).encode())

    def attempt(at: Transaction) -> Answer:
        known = at.connection.execute(select(request_keys).filter_by(**name)).one_or_none()
        if known is not None:
            if known.payload_hash != payload_hash:
                raise IdempotencyMismatch(key)
            return Answer(known.status, known.body, known.headers)
        answer = work(at)
        row = {
            **name,
            "payload_hash": payload_hash,
            "status": answer.status,
            "body": answer.body,
            "headers": dict(answer.headers),
            "created": at.wall,
        }
        stored = insert_into(at.connection, request_keys).values(row).on_conflict_do_nothing()
        if at.connection.execute(stored.returning(request_keys.c.status)).one_or_none() is None:
            raise _Taken
        return answer

    for _ in range(_TRIES):
        try:
            return context.database.write(attempt)
        except _Taken:
            continue
    raise InfrastructureError("database_unavailable", "The idempotency key is taken and released all the time.")
