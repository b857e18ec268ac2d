"""Jobs that are submitted over HTTP, to an API that is killed while they are submitted or while they run."""

from __future__ import annotations

import contextlib
import random
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from api import Api
from cluster import Cluster, wait_for
from sqlalchemy import select
from tally import JOBS, PATIENCE, PAUSE, STEPS, Hit, Tally

from aslconvert.service.client import Client, ClientError
from aslconvert.workers.jobs import Job, State
from aslconvert.workers.jobs.tables import jobs as table

SUBMITTING = 0.12
"""Seconds about which a submission takes: a kill within them meets some that were not answered."""


@dataclass(frozen=True)
class Submission:
    """One job that somebody wants: ``mark`` is an option of it, by which what came of it is found."""

    key: str
    mark: int

    def send(self, client: Client, api: Api) -> str:
        """The id that the service answers with, sooner or later. Raises ClientError when the patience is over."""
        options = {"metric": "count", "heal_steps": STEPS, "seed": self.mark}
        asked = {"model": api.model, "dataset": api.dataset, "options": options, "max_attempts": 20}
        return client.submit(**asked, idempotency_key=self.key).id


def hit_api(at: Cluster, tally: Tally) -> Hit:
    """Submit jobs, kill the API meanwhile, and start it again; the clients see to it that they get their answers."""
    api = at.running_api()
    wanted = [Submission(uuid.uuid4().hex, random.getrandbits(62)) for _ in range(JOBS)]
    with ExitStack() as stack:
        # Whoever tells the workers must be the API and the workers themselves.
        stack.enter_context(at.without_outbox())
        # Opened before: it takes longer than a submission.
        clients = [stack.enter_context(api.client(patience=PATIENCE)) for _ in wanted]
        pool = stack.enter_context(ThreadPoolExecutor(JOBS))
        sent = [pool.submit(one.send, client, api) for one, client in zip(wanted, clients, strict=True)]
        if random.random() < 0.5:
            time.sleep(random.uniform(0, SUBMITTING))
        else:
            with contextlib.suppress(TimeoutError):
                wait_for(lambda: any(job.state is not State.QUEUED for job in _made(at, wanted)), seconds=PATIENCE)
            time.sleep(random.uniform(0, STEPS * PAUSE))
        before = _made(at, wanted)
        states = {job.id: at.store.checkpoint(job.id) for job in before}
        begun = time.monotonic()
        api.kill()
        time.sleep(random.uniform(0, 1))
        api.start()
        answers = [set(_answers(one)) for one in sent]
        for one, client, ids in zip(wanted, clients, answers, strict=True):
            # Whoever does not trust the answer asks once more, and has one job all the same.
            ids.update(_answers(pool.submit(one.send, client, api)))
    for one, ids in zip(wanted, answers, strict=True):
        _count(one, ids, {job.id for job in _made(at, [one])}, tally)
    return Hit(_made(at, wanted), before, states, begun)


def _made(at: Cluster, wanted: Sequence[Submission]) -> list[Job]:
    """The jobs that came of these, by what the database holds."""
    marks = {one.mark for one in wanted}
    rows = at.database.read(lambda seen: seen.connection.execute(select(table.c.id, table.c.payload)).all())
    return [at.store.job(key) for key, payload in rows if payload["options"].get("seed") in marks]


def _answers(sent: Future[str]) -> Iterator[str]:
    try:
        yield sent.result()
    except ClientError as error:
        print(f"a submission got no answer: {error}", file=sys.stderr)


def _count(one: Submission, answers: set[str], made: set[str], tally: Tally) -> None:
    if len(made) > 1 or len(answers) > 1:
        tally.duplicated += 1
    elif not made or answers != made:
        # No job, or one that whoever asked for it knows nothing of.
        tally.lost += 1
    else:
        return
    print(f"submission {one.key}: answered {answers or 'nothing'}, made {made or 'nothing'}", file=sys.stderr)
