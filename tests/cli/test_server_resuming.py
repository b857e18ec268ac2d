"""`convert --server --resume` goes on with its own job only, and no job starts that it could not find again."""

import json
import os
import time
from pathlib import Path

import pytest
from scripted import Answer, Asked, Scripted, scripted

from aslconvert.cli.progress import RichProgress
from aslconvert.cli.remote.convert import convert_there, job_options
from aslconvert.cli.remote.packing import KEPT_SECONDS, sendable_data
from aslconvert.cli.remote.resuming import STATE, Left, asked_of, found, leave
from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.options import ConvertOptions

REFUSED = Answer(401, b"{}")


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASLCONVERT_KEY", "asl_1_2")
    monkeypatch.setenv("ASLCONVERT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.pt2").write_bytes(b"a model")
    (tmp_path / "data.npz").write_bytes(b"data")
    return tmp_path


def _convert(server: Scripted, sent: Path, out: Path, options: ConvertOptions) -> None:
    convert_there(
        str(sent / "model.pt2"), data=str(sent / "data.npz"), out=out, options=options, server=server.url,
        key_file=None, progress=RichProgress(),
    )  # fmt: skip


@pytest.mark.parametrize("other", ["model", "data", "option"])
def test_another_request_does_not_take_up_the_job(sent: Path, other: str) -> None:
    out, options = sent / "out", ConvertOptions(resume=True, seed=7)
    with scripted(lambda _: REFUSED) as server:
        asked = asked_of(str(sent / "model.pt2"), str(sent / "data.npz"), job_options(options))
        leave(out, Left(server.url, asked, job="job1"))
        if other == "option":
            options = ConvertOptions(resume=True, seed=8)
        else:
            next(sent.glob(f"{other}.*")).write_bytes(b"another")
        with pytest.raises(UsageError) as refused:
            _convert(server, sent, out, options)
        assert refused.value.code == "resume_mismatch"
        assert server.asked == []


def test_the_same_request_asks_for_its_job(sent: Path) -> None:
    out, options = sent / "out", ConvertOptions(resume=True, seed=7)
    with scripted(lambda _: REFUSED) as server:
        asked = asked_of(str(sent / "model.pt2"), str(sent / "data.npz"), job_options(options))
        leave(out, Left(server.url, asked, job="job1"))
        with pytest.raises(UsageError):
            _convert(server, sent, out, options)
        assert [one.path for one in server.asked] == ["/v1/jobs/job1"]
        assert found(out, server=server.url, asked=asked).job == "job1"


def test_the_key_of_the_job_is_on_disk_before_the_server_is_asked(sent: Path) -> None:
    out, seen = sent / "out", list[dict[str, str]]()

    def answer(_: Asked) -> Answer:
        seen.append(json.loads((out / STATE).read_text()))
        return REFUSED

    with scripted(answer) as server, pytest.raises(UsageError):
        _convert(server, sent, out, ConvertOptions())
    assert seen[0]["key"]
    assert seen[0]["job"] is None
    # What was refused is not gone on with.
    assert not out.exists()


def test_where_nothing_can_be_written_no_job_starts(sent: Path) -> None:
    with scripted(lambda _: REFUSED) as server:
        with pytest.raises(InfrastructureError):
            _convert(server, sent, Path("/proc/nowhere/out"), ConvertOptions())
        assert server.asked == []


def test_packs_that_nobody_came_back_for_go(sent: Path) -> None:
    (sent / "photos").mkdir()
    (sent / "photos" / "a.png").write_bytes(b"a picture")
    packed = sent / "cache" / "packed"
    packed.mkdir(parents=True)
    for name, age in (("old.tar", KEPT_SECONDS + 60), ("new.tar", 60)):
        (packed / name).write_bytes(b"x")
        os.utime(packed / name, (time.time() - age,) * 2)
    with sendable_data(str(sent / "photos")) as file:
        assert {path.name for path in packed.iterdir()} == {"new.tar", file.path.name}
