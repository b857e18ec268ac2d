"""States of jobs as files: what goes in comes out, and nothing lands elsewhere."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from aslconvert.workers.checkpoints import pack, stamp, unpack


def test_a_state_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    (out / ".state" / "search").mkdir(parents=True)
    (out / ".state" / "heal.bin").write_bytes(bytes(range(256)) * 1000)
    (out / ".state" / "search" / "plan.json").write_text("{}")
    (out / ".state" / ".new").write_text("half")
    (out / "report.json").write_text("{}")
    assert pack(out, tmp_path / "state.tar")

    def older(*_: Any, **given: Any) -> None:
        raise TypeError("TarFile.extract() got an unexpected keyword argument 'filter'")

    # As in Python before 3.11.4.
    monkeypatch.setattr(tarfile.TarFile, "extract", older)
    unpack(tmp_path / "state.tar", tmp_path / "again")
    found = {
        path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*.*") if path.is_file()
    }
    assert found == {".state/heal.bin", ".state/search/plan.json"}
    for name in found:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    # Else the first look would find a new state and store it once more.
    assert [(name, size) for name, size, _ in stamp(tmp_path / "again")] == [
        (name, size) for name, size, _ in stamp(out)
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("elsewhere", tarfile.REGTYPE),
        (".state/../../x", tarfile.REGTYPE),
        ("/etc/x", tarfile.REGTYPE),
        (".state", tarfile.REGTYPE),
        (".state/./x", tarfile.REGTYPE),
        (".state/link", tarfile.SYMTYPE),
        (".state/link", tarfile.LNKTYPE),
        (".state/pipe", tarfile.FIFOTYPE),
    ],
)
def test_what_belongs_to_no_state_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    with tarfile.open(tmp_path / "state.tar", "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/hostname"
        archive.addfile(entry, io.BytesIO())
    with pytest.raises(ValueError, match="belongs to no state"):
        unpack(tmp_path / "state.tar", tmp_path / "out" / "deep")
    assert not list((tmp_path / "out").rglob("x"))


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.tar").write_bytes(b"no archive" * 1000)
    with pytest.raises(ValueError):
        unpack(tmp_path / "state.tar", tmp_path / "out")
