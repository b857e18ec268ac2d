"""What counts of a job's folder, however it is made."""

import os
from pathlib import Path

import pytest

from aslconvert.workers.errands import Errand, run_errand
from aslconvert.workers.errors import UserError
from aslconvert.workers.sandbox import footprint
from aslconvert.workers.sandbox.footprint import MOST_DEPTH, Footprint
from aslconvert.workers.sandbox.limits import Limits

ENGINES = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look whenever asked."""
    monkeypatch.setattr(footprint, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(footprint, "SHARE", 1e9)


def excess(folder: Path, *, most_bytes: int | None = None, most_files: int | None = None) -> str:
    return Footprint(folder, Limits(folder_bytes=most_bytes, folder_files=most_files)).excess()


def test_files_of_all_folders_are_added_up(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d/e"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(40_000))
    # Three files, two folders.
    assert excess(tmp_path, most_files=5) == ""
    assert "more than 4 files" in excess(tmp_path, most_files=4)
    assert "together" in excess(tmp_path, most_bytes=100_000)
    assert excess(tmp_path, most_bytes=200_000) == ""
    assert excess(tmp_path) == ""


def test_a_file_counts_by_its_length_too(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert "together" in excess(tmp_path, most_bytes=1 << 29)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "large").write_bytes(bytes(1 << 20))
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "large")
    (inside / "itself").symlink_to(inside)
    assert excess(inside, most_bytes=1 << 19, most_files=3) == ""
    assert excess(tmp_path / "inside" / "folder", most_bytes=1) == ""
    assert excess(tmp_path / "none", most_bytes=1) == ""


def test_what_cannot_be_looked_into_is_too_much(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * (MOST_DEPTH + 1))
    deep.mkdir(parents=True)
    assert "deep" in excess(tmp_path, most_files=1000)
    deep.rmdir()
    assert excess(tmp_path, most_files=1000) == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="NOTHING IS CLOSED TO ROOT: only others are tested")
def test_a_folder_without_rights_is_too_much(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert "looked into" in excess(tmp_path, most_files=1000)


def test_errands_are_bounded_too(tmp_path: Path) -> None:
    errand = Errand(
        engine="small_engine:run",
        kind="convert",
        payload={"options": {"do": "spill", "size": 10_000}},
        limits=Limits(folder_files=200),
        environment={"PYTHONPATH": str(ENGINES)},
        seconds=60.0,
    )
    with pytest.raises(UserError) as ended:
        run_errand(errand, folder=tmp_path / "desk", stopping=lambda: False)
    assert ended.value.code == "files_limit"
    assert "more than 200 files" in ended.value.message
    assert not (tmp_path / "desk").exists()
