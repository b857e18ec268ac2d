"""Who works off the jobs: a worker in this process, or workers that hear of them over Redis, or any that look."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from aslconvert.service.context import Context
from aslconvert.service.settings import Settings
from aslconvert.workers.dispatch.embedded import Embedded
from aslconvert.workers.errors import InfrastructureError
from aslconvert.workers.jobs import Queue
from aslconvert.workers.policy import SupervisorSettings
from aslconvert.workers.sandbox.limits import Limits
from aslconvert.workers.worker import Worker


class Dispatch:
    """What a running app knows of it; ``alive`` is None where nobody works in this process."""

    def __init__(self, embedded: Embedded | None) -> None:
        self._embedded = embedded

    @property
    def alive(self) -> bool | None:
        """Whether the worker in this process works."""
        return None if self._embedded is None else self._embedded.alive


@contextmanager
def running(context: Context) -> Iterator[None]:
    """Dispatch while the app runs. Leaving it gives the job of this process back.

    Raises:
        InfrastructureError: ``celery_missing``.
    """
    settings = context.settings
    with ExitStack() as stack:
        embedded = None
        if settings.embedded:
            worker = Worker(
                context.jobs,
                context.blobs,
                queues=(Queue.CPU,),
                folder=settings.places.work,
                settings=supervision(settings),
            )
            embedded = stack.enter_context(Embedded(worker))
            context.wake = embedded.wake
        if settings.redis is not None:
            try:
                from aslconvert.workers.dispatch.celery import make_app, sender
                from aslconvert.workers.dispatch.outbox import Outbox
            except ModuleNotFoundError as error:
                hint = "pip install 'aslconvert[celery]'"
                raise InfrastructureError("celery_missing", f"Redis needs {error.name}.", hint=hint) from error
            outbox = stack.enter_context(Outbox(context.jobs, sender(make_app(settings.redis))))
            before = context.wake

            def wake_all() -> None:
                before()
                outbox.wake()

            context.wake = wake_all
        context.parts[Dispatch] = Dispatch(embedded)
        yield


def supervision(settings: Settings) -> SupervisorSettings:
    """How the embedded worker runs jobs: with every core that this process may use."""
    environment = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "CUDA_VISIBLE_DEVICES": ""}
    limits = Limits(folder_bytes=settings.job_bytes, folder_files=settings.job_files)
    usual = SupervisorSettings(environment=environment, strict=settings.strict, limits=limits)
    if settings.engine is None:
        return usual
    # Another engine is found where this process finds its modules.
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    return replace(usual, engine=settings.engine)
