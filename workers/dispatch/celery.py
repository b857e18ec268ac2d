"""Dispatch over Celery and Redis: messages carry the ids of jobs, and workers claim what they are told of.

A message that comes twice finds the job held or done and is dropped; one that is lost is sent again by the outbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery, signals
from kombu.exceptions import OperationalError

from aslconvert.workers.dispatch.outbox import Outbox, Send
from aslconvert.workers.jobs import Queue
from aslconvert.workers.worker import Worker

TASK = "aslconvert.work"

VISIBILITY_SECONDS = 3600
"""Redis hands a message to another worker when it has not been acknowledged for so long. The job is then held, and the
message dropped: that a job outlives its worker is seen to by its lease."""


def make_app(broker: str) -> Celery:
    """The Celery application at a ``redis://`` address; it stores no results."""
    app = Celery("aslconvert", broker=broker, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            # An outage must not hold up whoever sends: the outbox tries again.
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
        },
    )
    return app


def queue_name(queue: Queue) -> str:
    """The Celery queue of a class of devices."""
    return f"aslconvert.{queue.value}"


def sender(app: Celery) -> Send:
    """Hands ids to the broker; raises OSError when that is away."""

    def send(job_id: str, queue: Queue) -> None:
        try:
            app.send_task(TASK, args=[job_id], queue=queue_name(queue), retry=False)
        except OperationalError as error:
            raise ConnectionError(str(error)) from error

    return send


def run_worker(app: Celery, worker: Worker, *, queues: Sequence[Queue], log_level: str = "warning") -> None:
    """Work off messages until SIGTERM, which gives the running job back.

    One job at a time, in a thread: nothing is forked, and the Celery process never imports torch.
    """

    def work(job_id: str) -> None:
        claim = worker.claim_id(job_id)
        if claim is not None:
            worker.work_on(claim)

    def stop(**_: Any) -> None:
        worker.stop()

    app.task(name=TASK)(work)
    signals.worker_shutting_down.connect(stop)
    try:
        with worker.serving(), Outbox(worker.store, sender(app)):
            app.worker_main([
                "worker",
                "--pool=threads",
                "--concurrency=1",
                f"--queues={','.join(queue_name(queue) for queue in queues)}",
                f"--hostname={worker.name}@%h",
                f"--loglevel={log_level}",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ])  # fmt: skip
    finally:
        signals.worker_shutting_down.disconnect(stop)
