"""A claim reads the head of an index, however long the queue and the history are."""

from typing import Any

import pytest
from sqlalchemy import event, text

from aslconvert.workers.database import Database
from aslconvert.workers.jobs import JobStore, Kind, NewJob, Queue

NEW = NewJob(tenant="t", kind=Kind.CONVERT, queue=Queue.CPU, payload={})
COPY = """
INSERT INTO jobs (id, tenant, kind, queue, priority, state, payload, attempts_made, max_attempts, cancel_requested,
  created, version, event_count, lease_token, finished, available_at)
SELECT {id}, tenant, kind, queue, priority, '{state}', payload, 0, 3, {no}, created, 1, 1, 0, {finished}, {available}
FROM jobs, {numbers} WHERE jobs.id = '{template}'
"""


def fill(database: Database, template: str, state: str, *, finished: str = "NULL", available: str = "NULL") -> None:
    sqlite = database.is_sqlite
    numbers = (
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT i FROM n) AS n"
        if sqlite
        else "generate_series(1, 3000) AS n(i)"
    )
    statement = COPY.format(
        id=f"'{state[:1]}{available[:1]}' || n.i",
        state=state,
        no="0" if sqlite else "false",
        finished=finished,
        available=available,
        numbers=numbers,
        template=template,
    )
    database.write(lambda at: at.connection.exec_driver_sql(statement))


@pytest.mark.parametrize("what", ["claim", "reap"])
def test_the_plan_of_a_claim_walks_one_index(store: JobStore, database: Database, what: str) -> None:
    first = store.submit(NEW).id
    fill(database, first, "queued")
    fill(database, first, "queued", available="1e12")
    fill(database, first, "succeeded", finished="created")
    database.write(lambda at: at.connection.execute(text("ANALYZE")))
    caught: list[tuple[str, Any]] = []

    def catch(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        if "jobs" in statement.split("RETURNING")[0] and not statement.startswith("INSERT"):
            caught.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", catch)
    if what == "claim":
        claim = store.claim([Queue.CPU], worker="w")
        assert claim is not None
    else:
        store.reap()
    event.remove(database.engine, "before_cursor_execute", catch)
    assert len(caught) >= 2
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    for statement, parameters in caught:
        plan = "\n".join(
            str(tuple(row))
            for row in database.read(
                lambda at, s=statement, p=parameters: at.connection.exec_driver_sql(f"{explain} {s}", p).all()
            )
        )
        for slow in ("SCAN jobs\n", "SCAN jobs'", "TEMP B-TREE", "Seq Scan on jobs"):
            assert slow not in plan, plan
        assert "ix_jobs_" in plan or "pk_jobs" in plan or "autoindex" in plan, plan
