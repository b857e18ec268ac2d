"""From an earlier version's images and files to this one's, with a job at work and one that has ended.

`make compose-test` builds both; which version is the earlier one is said by PREVIOUS (docker/dev/test.sh).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from deployment import laid
from running import IMAGES, docker, fetched, running, submit, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_an_upgrade_with_a_job_at_work_loses_nothing(tmp_path: Path, inputs: tuple[Path, Path]) -> None:
    sources = os.environ.get("PREVIOUS_SOURCES")
    if sources is None:
        pytest.skip("NO EARLIER VERSION HERE: upgrades are not tested; `make compose-test` builds one")
    with running(tmp_path, version="previous", sources=Path(sources)) as one, one.client() as client:
        ended = client.wait(submit(client, inputs, budget=1).id, timeout=900)
        assert ended.state == "succeeded", ended
        before = fetched(client, ended.id, tmp_path / "before")
        job = submit(client, inputs, budget=20)
        wait_for(lambda: client.job(job.id).stage is not None)

        laid(tmp_path)
        one.choose("latest")
        one.up()

        for service, image in zip(("api", "worker"), IMAGES, strict=True):
            assert one.container(service)["Image"] == docker("image", "inspect", "-f", "{{.Id}}", image).strip()
        again = client.wait(job.id, timeout=900)
        assert again.state == "succeeded", again
        assert again.attempt <= 2
        assert sum(event.kind == "succeeded" for event in client.events(job.id)) == 1
        assert fetched(client, job.id, tmp_path / "after")
        assert fetched(client, ended.id, tmp_path / "still") == before
        assert one.admin("fsck", "--deep")["findings"] == []
