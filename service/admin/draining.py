"""Lets a worker finish the job that it has and end, without another one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import select

from aslconvert.workers.database import Database
from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.jobs import Queue
from aslconvert.workers.jobs.tables import LEASED, jobs
from aslconvert.workers.settings import Places
from aslconvert.workers.worker import ask_to_drain, is_at_work, is_worker_name

LOOK_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 3.0
_QUIET_LOOKS: Final = 2
"""A message that was on its way when the worker was told is claimed before the second look."""


def drain(
    places: Places,
    name: str,
    *,
    wait: float | None = None,
    stay: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> bool:
    """Tell a worker to take no new job and to end; whether it has no job any more within ``wait`` s.

    ``stay`` leaves it idle, where whatever runs it would start it again; that needs Redis.

    With Redis any machine may say so; without, the one that the worker runs on, as it shares its folder. ``wait`` None
    waits as long as its job takes, 0 not at all: then the worker ends once its job does, but with Redis it goes on
    running without work until it is stopped.

    Raises:
        UserError: ``worker_name``, ``no_such_worker``, ``stay_needs_redis``.
        InfrastructureError: ``celery_missing``, ``broker_unavailable`` and what the database raises.
    """
    if not is_worker_name(name):
        raise UserError("worker_name", f"{name!r} is no name of a worker.", hint="Letters, digits, . _ and -.")
    until = None if wait is None else time.monotonic() + wait
    if places.redis is None:
        if stay:
            raise UserError("stay_needs_redis", "Only a worker that hears of jobs over Redis can be left idle.")
        if not is_at_work(places.work, name):
            raise UserError("no_such_worker", f"No worker called {name!r} works in {places.work}.")
        ask_to_drain(places.work, name)
        tell(f"{name} takes no new job")
        return _until(lambda: not is_at_work(places.work, name), until, looks=1)
    control = _Control(places.redis, name)
    control.take_no_more()
    tell(f"{name} takes no new job")
    database = Database(places.database_url)
    try:
        if not _until(lambda: _job_of(database, name) is None, until, looks=_QUIET_LOOKS):
            return False
    finally:
        database.close()
    if not stay:
        control.end()
    return True


def _until(true: Callable[[], bool], until: float | None, *, looks: int) -> bool:
    """Wait until it is true at so many looks in a row."""
    seen = 0
    while True:
        seen = seen + 1 if true() else 0
        if seen >= looks:
            return True
        if until is not None and time.monotonic() >= until:
            return False
        time.sleep(LOOK_SECONDS)


def _job_of(database: Database, name: str) -> str | None:
    found = select(jobs.c.id).where(LEASED, jobs.c.lease_owner == name).limit(1)
    return database.read(lambda at: at.connection.execute(found).scalar_one_or_none())


class _Control:
    """Celery's own remote control of one worker."""

    def __init__(self, redis: str, name: str) -> None:
        try:
            from aslconvert.workers.dispatch.celery import make_app, queue_name
        except ModuleNotFoundError as error:
            hint = "pip install 'aslconvert[celery]'"
            raise InfrastructureError("celery_missing", f"Redis needs {error.name}.", hint=hint) from error
        self._app, self._name = make_app(redis), name
        self._queues = [queue_name(queue) for queue in Queue]

    def take_no_more(self) -> None:
        """Raises UserError ``no_such_worker`` when none of this name answers."""
        for queue in self._queues:
            answers = self._say("cancel_consumer", {"queue": queue}, answered=True)
            if not answers:
                told = f"No worker called {self._name!r} answers."
                raise UserError("no_such_worker", told, hint="It may be cut off from Redis.")

    def end(self) -> None:
        self._say("shutdown", {}, answered=False)

    def _say(self, command: str, arguments: dict[str, Any], *, answered: bool) -> Any:
        from kombu.exceptions import OperationalError

        try:
            return self._app.control.broadcast(
                command,
                arguments=arguments,
                # Its host is not known here; the name is checked, so that nothing in it is a pattern.
                pattern=f"{self._name}@*",
                matcher="glob",
                reply=answered,
                timeout=_ANSWER_SECONDS,
                limit=1,
            )
        except (OperationalError, OSError) as error:
            raise InfrastructureError("broker_unavailable", "Redis does not answer.") from error
