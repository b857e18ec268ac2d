"""Requests that nobody would write, made from the document: no server error, and every answer as described."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from live import Live, ended
from schemathesis.specs.openapi.checks import positive_data_acceptance
from test_jobs import asked

from aslconvert.service.app import create_app
from aslconvert.service.settings import Settings

EXAMPLES = int(os.environ.get("CONFORMANCE_EXAMPLES", "8"))
"""Of each operation; more on request."""


@schemathesis.serializer("application/offset+octet-stream")
def _octets(_: Any, value: Any) -> bytes:
    found = getattr(value, "data", value)
    return found if isinstance(found, bytes) else str(found).encode()


@pytest.fixture(scope="module")
def key(memory: Path) -> Iterator[tuple[Live, str]]:
    folder = Path(tempfile.mkdtemp(dir=memory))
    live = Live(folder, requests_per_minute=10**7, running_jobs=10**6, embedded=True, engine="service_engine:run")
    live.start()
    with live.client() as client:
        ended(client, client.post("/v1/jobs", json=asked(live)).json()["id"])
    yield live, live.key()
    live.close()


SCHEMA = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_operation_answers_as_it_says(operation: Any, key: tuple[Live, str]) -> None:
    live, bearer = key

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def answers(case: Any) -> None:
        # Left out: that all the schema allows is taken. What a cursor, a file or two options together may be is no
        # matter of schemas; it is told by documented codes, which are checked here like every other answer.
        case.call_and_validate(
            base_url=live.url,
            headers={"Authorization": f"Bearer {bearer}"},
            excluded_checks=[positive_data_acceptance],
        )

    answers()
