import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.export.atomic import write_file, write_files


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    write_files(tmp_path / "new" / "folder", {"a": b"1", "b": b"2"})
    write_file(tmp_path / "new" / "folder" / "a", b"3")
    assert {p.name: p.read_bytes() for p in (tmp_path / "new" / "folder").iterdir()} == {"a": b"3", "b": b"2"}


def test_a_file_larger_than_allowed_leaves_the_old_one(tmp_path: Path) -> None:
    """RLIMIT_FSIZE is a full disk that needs no privileges; the limit belongs to a process, hence one of its own."""
    (tmp_path / "a").write_bytes(b"old")
    code = (
        "import sys, pathlib\n"
        "from aslconvert.converter.errors import InfrastructureError\n"
        "from aslconvert.converter.export.atomic import write_files\n"
        "try:\n"
        "    write_files(pathlib.Path(sys.argv[1]), {'a': b'new', 'b': b'x' * 100_000})\n"
        "except InfrastructureError as error:\n"
        "    print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.stdout == "disk_full\n", done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 64 KiB, where this machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_files(small_disk: Path) -> None:
    write_file(small_disk / "a", b"old")
    with pytest.raises(InfrastructureError) as failure:
        write_files(small_disk, {"a": b"new" * 1000, "b": b"x" * 200_000})
    assert failure.value.code == "disk_full"
    assert {p.name: p.read_bytes() for p in small_disk.iterdir()} == {"a": b"old"}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InfrastructureError) as failure:
        write_file(tmp_path / "file" / "model.pt2", b"x")
    assert failure.value.code == "unwritable"


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"x")
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o644
