"""The cache of latencies: what is found again, what is ignored and said, and where it lies."""

import json
import os
from pathlib import Path

import pytest

from aslconvert.converter.cost import cache
from aslconvert.converter.cost.cache import Entry, LatencyCache, cache_folder, device_fingerprint, open_cache

DEVICE = {"cpu": "Some Processor 9000", "threads": 1, "kernels": {"backend": "native"}}
ENTRY = Entry(samples={"keep": (1.0, 1.1, 0.9), "16": (0.5, 0.6, 0.4)}, gated=None)


def filled(folder: Path) -> LatencyCache:
    kept = open_cache(DEVICE, folder=folder)
    kept.entries["conv2d"] = ENTRY
    kept.save()
    return kept


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    assert open_cache(DEVICE, folder=tmp_path).entries == {}
    filled(tmp_path)
    again = open_cache(DEVICE, folder=tmp_path)
    assert again.entries == {"conv2d": ENTRY}
    assert again.notes == []
    assert [path.suffix for path in (tmp_path / "latency").iterdir()] == [".json"]


def test_another_device_finds_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    for changed in ({"threads": 2}, {"cpu": "Another"}, {"kernels": {"backend": "reference"}}):
        other = open_cache({**DEVICE, **changed}, folder=tmp_path)
        assert (other.entries, other.notes) == ({}, [])


def test_the_fingerprint_tells_threads_precision_and_kernels_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    base = device_fingerprint(threads=1, int16=True)
    assert base == device_fingerprint(threads=1, int16=True)
    assert {"cpu", "isa", "cores", "torch", "kernels", "code"} <= set(base)
    assert base != device_fingerprint(threads=2, int16=True)
    assert base != device_fingerprint(threads=1, int16=False)
    monkeypatch.setattr(cache, "_CODE", ("converter/cost/latency.py",))
    assert base != device_fingerprint(threads=1, int16=True)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda record: b"", "damaged"),
        (lambda record: b"\xff\xfe\x00", "cannot be read"),
        (lambda record: b"[" * 100_000, "damaged"),
        (lambda record: b"[]", "damaged"),
        (lambda record: json.dumps({**record, "maker": "other"}).encode(), "another program"),
        (lambda record: json.dumps({**record, "version": 0}).encode(), "another program"),
        (lambda record: json.dumps({**record, "fingerprint": {}}).encode(), "another device"),
        (lambda record: json.dumps({**record, "entries": {"conv2d": {"samples": {}}}}).encode(), "damaged"),
        (lambda record: json.dumps(record).replace("1.1", "-1.1").encode(), "damaged"),
        (lambda record: json.dumps(record).replace("1.1", "NaN").encode(), "damaged"),
        (lambda record: json.dumps(record).replace("1.1, ", "").encode(), "damaged"),
    ],
)
def test_a_file_that_is_damaged_or_not_ours_is_ignored_said_and_replaced(damage, told: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    kept = filled(tmp_path)
    kept.path.write_bytes(damage(json.loads(kept.path.read_text())))
    found = open_cache(DEVICE, folder=tmp_path)
    assert found.entries == {}
    assert len(found.notes) == 1
    assert told in found.notes[0]
    found.entries["conv1d"] = ENTRY
    found.save()
    assert open_cache(DEVICE, folder=tmp_path).entries == {"conv1d": ENTRY}


def test_two_runs_at_once_keep_what_both_measured(tmp_path: Path) -> None:
    one, other = open_cache(DEVICE, folder=tmp_path), open_cache(DEVICE, folder=tmp_path)
    one.entries["a"] = other.entries["b"] = ENTRY
    one.save()
    other.save()
    assert set(open_cache(DEVICE, folder=tmp_path).entries) == {"a", "b"}


def test_the_oldest_entries_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 2)
    kept = filled(tmp_path)
    kept.entries |= {"b": ENTRY, "c": ENTRY}
    kept.save()
    assert set(open_cache(DEVICE, folder=tmp_path).entries) == {"b", "c"}


def test_a_folder_that_cannot_be_written_is_told_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "latency").write_text("a file where the folder should be")
    kept = open_cache(DEVICE, folder=tmp_path)
    kept.entries["conv2d"] = ENTRY
    kept.save()
    assert "not kept" in kept.notes[-1]


def test_the_folder_is_the_one_named_or_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASLCONVERT_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("ASLCONVERT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "aslconvert"
    monkeypatch.setenv("XDG_CACHE_HOME", os.path.join("relative", "folder"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "aslconvert"
