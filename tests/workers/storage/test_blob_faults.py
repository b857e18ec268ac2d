"""A full disk leaves nothing behind; a collection beside puts never takes what is held."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aslconvert.workers.errors import InfrastructureError
from aslconvert.workers.storage import LocalBlobs

HANDS = Path(__file__).parents[1] / "hands.py"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_full_disk_leaves_no_part_of_a_blob(small_disk: Path) -> None:
    store = LocalBlobs(small_disk)
    kept = store.put([b"x" * 100_000])
    with pytest.raises(InfrastructureError) as caught:
        store.put(io.BytesIO(b"y" * 3_000_000))
    assert caught.value.code == "disk_full"
    assert [path.name for path in files(small_disk)] == [kept.hash]
    store.put([b"z" * 500_000])


def test_a_file_that_may_not_grow_leaves_no_part_of_a_blob(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HANDS), "put_limited", str(tmp_path), "100000", "200000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout) == {"code": "disk_full"}, done.stderr
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_used_has_a_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InfrastructureError) as caught:
        LocalBlobs(tmp_path / "file" / "below").put([b"x"])
    assert caught.value.code == "storage_unavailable"


def test_a_collection_beside_puts_takes_only_what_nobody_holds(url: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "blobs")
    collector = subprocess.Popen(
        [sys.executable, str(HANDS), "collect", url, folder, "0.02"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    writers = [
        subprocess.Popen(
            [sys.executable, str(HANDS), "put_and_hold", url, folder, "60"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate()[0] for process in writers]
    collected = json.loads(collector.communicate()[0])["collected"]
    assert [process.returncode for process in writers] == [0, 0]
    assert collected > 0, "the collector met no blob, so this shows nothing"
    assert sum(json.loads(line)["late"] for line in told) < 60
