"""Downloads of the client: a name stands for the whole and right bytes, however often the line breaks."""

import asyncio
import base64
import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import Answer, Asked, scripted

from aslconvert.service.client import Artifact, AsyncClient, Client, DamagedDownload, NotFound, Retry, Unreachable

QUICK = Retry(first=0.01, most=0.05, patience=0.3)
BYTES = random.Random(0).randbytes(300_000)
SHA = hashlib.sha256(BYTES).hexdigest()
DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(BYTES).digest()).decode()}:"
FILE = Artifact(id="a1", name="fast.pt2", bytes=len(BYTES), sha256=SHA)


def served(
    data: bytes = BYTES, *, cuts: list[int] | None = None, ranges: bool = True, digest: str | None = DIGEST
) -> Callable[[Asked], Answer]:
    """Gives ``data`` or its range; each of ``cuts`` breaks one answer off after so many bytes."""
    left = list(cuts or [])

    def answer(asked: Asked) -> Answer:
        start = 0
        if ranges and (match := re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))):
            start = int(match[1])
            if start >= len(data):
                return Answer(416, b"", {"Repr-Digest": digest or ""})
        headers = {"Repr-Digest": digest} if digest else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Answer(206 if start else 200, data[start:], headers, cut=left.pop(0) if left else None)

    return answer


def fetch(kind: str, url: str, target: Path, artifact: Artifact | str = FILE) -> Path:
    if kind == "sync":
        with Client(url, "asl_a_b", retry=QUICK) as client:
            return client.download(artifact, target)

    async def awaited() -> Path:
        async with AsyncClient(url, "asl_a_b", retry=QUICK) as client:
            return await client.download(artifact, target)

    return asyncio.run(awaited())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("artifact", [FILE, "a1"], ids=["known", "by id"])
def test_a_broken_download_goes_on_where_it_broke(kind: str, artifact: Artifact | str, tmp_path: Path) -> None:
    target = tmp_path / "out" / "fast.pt2"
    with scripted(served(cuts=[100_000, 0, 70_000])) as server:
        assert fetch(kind, server.url, target, artifact) == target
    assert target.read_bytes() == BYTES
    starts = [asked.headers.get("range") for asked in server.asked]
    # Of the second answer nothing comes; the others may lose what was in a buffer, never what was written.
    assert starts[0] is None
    assert len(starts) == 4
    assert starts[1] == starts[2] == "bytes=100000-"
    assert starts[3] == "bytes=170000-"
    assert [path.name for path in target.parent.iterdir()] == ["fast.pt2"]


def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path) -> None:
    with scripted(served(cuts=[100_000], ranges=False)) as server:
        fetch("sync", server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BYTES


def test_another_process_goes_on(tmp_path: Path) -> None:
    target = tmp_path / "f"
    with scripted(served(cuts=[100_000, *[0] * 1000])) as server, pytest.raises(Unreachable):
        fetch("sync", server.url, target)
    assert not target.exists()
    with scripted(served()) as server:
        fetch("sync", server.url, target)
    assert [asked.headers["range"] for asked in server.asked] == ["bytes=100000-"]
    assert target.read_bytes() == BYTES


def test_what_is_left_whole_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / f".f.{SHA[:16]}.part").write_bytes(BYTES)
    with scripted(served()) as server:
        fetch("sync", server.url, tmp_path / "f")
        assert len(server.asked) == 1
        fetch("sync", server.url, tmp_path / "f")
    assert len(server.asked) == 1
    assert (tmp_path / "f").read_bytes() == BYTES


def test_damage_left_on_this_disk_is_mended(tmp_path: Path) -> None:
    (tmp_path / f".f.{SHA[:16]}.part").write_bytes(b"x" * 1000)
    with scripted(served()) as server:
        fetch("sync", server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BYTES
    assert len(server.asked) == 2


@pytest.mark.parametrize("artifact", [FILE, "a1"], ids=["known", "by id"])
def test_other_bytes_than_promised_get_no_name(artifact: Artifact | str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"before")
    wrong = BYTES[:-1] + bytes([BYTES[-1] ^ 1])
    with scripted(served(wrong)) as server, pytest.raises(DamagedDownload):
        fetch("sync", server.url, tmp_path / "f", artifact)
    assert (tmp_path / "f").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_bytes_that_nobody_vouches_for_get_no_name(tmp_path: Path) -> None:
    with scripted(served(digest=None)) as server, pytest.raises(DamagedDownload, match="does not say"):
        fetch("sync", server.url, tmp_path / "f", "a1")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_leaves_nothing(tmp_path: Path) -> None:
    with scripted(lambda asked: Answer(404)) as server, pytest.raises(NotFound):
        fetch("sync", server.url, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with scripted(served()) as server, pytest.raises(OSError, match="File exists"):
        fetch("sync", server.url, tmp_path / "file" / "f")


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    with scripted(served(cuts=[100_000])) as server, Client(server.url, "asl_a_b", retry=QUICK) as client:
        client.download(FILE, tmp_path / "f", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(BYTES), len(BYTES))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
