"""Every fault once, through a real Redis, real Celery workers and real sandboxes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workers"))

import postgres
from cluster import redis_server
from soak import FAULTS, ON_POSTGRES, soak

pytestmark = pytest.mark.long


@pytest.mark.skipif(
    redis_server() is None, reason="NO REDIS HERE: nothing about Celery is tested; apt-get install redis-server"
)
def test_no_job_is_lost_or_done_twice(tmp_path: Path) -> None:
    kinds = [*FAULTS, *(ON_POSTGRES if postgres.programs() else ())]
    tally = soak(len(kinds), seed=1, place=tmp_path)
    assert tally.clean, tally
    assert list(tally.faults) == kinds
