"""While it is timed a process stays on as many cores as it has threads, and after that it may roam again."""

import os
import threading

import pytest

from aslconvert.converter.cost.pinning import pinned

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="no affinity, or one core only"
)


@needs_affinity
def test_every_thread_is_pinned_within_and_free_after() -> None:
    allowed = os.sched_getaffinity(0)
    ready, done = threading.Event(), threading.Event()
    seen: list[int] = []

    def wait() -> None:
        seen.append(threading.get_native_id())
        ready.set()
        done.wait()

    older = threading.Thread(target=wait)
    older.start()
    ready.wait()
    try:
        with pinned(1) as held:
            assert held
            within = os.sched_getaffinity(0)
            assert len(within) == 1
            assert within < allowed
            assert os.sched_getaffinity(seen[0]) == within
            ready.clear()
            younger = threading.Thread(target=wait)
            younger.start()
            ready.wait()
            assert os.sched_getaffinity(seen[1]) == within
            with pinned(1) as still:
                assert still
                assert os.sched_getaffinity(0) == within
        assert [os.sched_getaffinity(thread) for thread in (0, *seen)] == [allowed] * 3
    finally:
        done.set()
        older.join()
        younger.join()


@needs_affinity
def test_the_mask_comes_back_after_a_failure() -> None:
    allowed = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError, match="gone"), pinned(1):
        raise RuntimeError("gone")
    assert os.sched_getaffinity(0) == allowed


def test_with_as_many_threads_as_cores_there_is_nothing_to_do() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with pinned(cores + 1) as held:
        assert not held


def test_a_system_without_affinity_goes_on_unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(1) as held:
        assert not held


@needs_affinity
def test_a_system_that_refuses_is_told_as_unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: int, cores: set[int]) -> None:
        raise PermissionError

    allowed = os.sched_getaffinity(0)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pinned(1) as held:
        assert not held
    assert os.sched_getaffinity(0) == allowed
