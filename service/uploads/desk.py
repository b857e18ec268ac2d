"""The threads that see to sandboxes: a bounded number at a time, for uploads and previews alike."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Protocol

import structlog

POLL_SECONDS: Final = 2.0
"""Between two looks where nobody says that there is something: what another process left, or what was in a pause."""

SWEEP_SECONDS: Final = 60.0


def by_turns(waiting: Iterable[tuple[str, str]]) -> list[str]:
    """Ids of (tenant, id), the first of each tenant before the second of any: one with many does not hold up others."""
    turns: Counter[str] = Counter()
    ordered: list[tuple[int, str]] = []
    for tenant, identity in waiting:
        ordered.append((turns[tenant], identity))
        turns[tenant] += 1
    return [identity for _, identity in sorted(ordered, key=lambda one: one[0])]


class Work(Protocol):
    """Something with things to be seen through, each by its id; whoever comes second to one leaves it alone."""

    def waiting(self) -> Sequence[str]:
        """What is to be done."""
        ...

    def see_through(self, identity: str) -> None:
        """Do it."""
        ...


class Desk:
    """``seats`` threads that do the work while it is entered; ``sweep`` is called every minute.

    The first kind of work goes before the others and may have every seat; they together leave one free for it, where
    there are two or more.

    The kernel ends a sandbox with the thread that started it: these live as long as the desk.
    """

    def __init__(
        self, work: Sequence[Work], *, seats: int, sweep: Callable[[], None], stopping: threading.Event
    ) -> None:
        self._work, self._sweep, self._stopping = tuple(work), sweep, stopping
        self._most_others = max(1, seats - 1)
        self._at_work: set[tuple[int, str]] = set()
        self._lock = threading.Lock()
        self._new = threading.Condition(self._lock)
        self._changes = 0
        self._threads = [threading.Thread(target=self._sit, name=f"sandbox seat {seat}") for seat in range(seats)]
        self._threads.append(threading.Thread(target=self._clean, name="upload sweeper"))

    def wake(self) -> None:
        """There is something to do."""
        with self._new:
            self._changes += 1
            self._new.notify_all()

    def __enter__(self) -> Desk:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            thread.join()

    def _sit(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                seen = self._changes
            taken = self._next()
            if taken is not None:
                self._do(taken)
                continue
            with self._new:
                if self._changes == seen:
                    self._new.wait(POLL_SECONDS)

    def _next(self) -> tuple[int, str] | None:
        for number, work in enumerate(self._work):
            try:
                waiting = work.waiting()
            except Exception as error:  # noqa: BLE001  it must go on, whatever the database says today
                structlog.get_logger().warning("nothing to see through", reason=type(error).__name__)
                continue
            with self._lock:
                for identity in waiting:
                    if number > 0 and sum(other > 0 for other, _ in self._at_work) >= self._most_others:
                        break
                    if (number, identity) not in self._at_work:
                        self._at_work.add((number, identity))
                        return number, identity
        return None

    def _do(self, taken: tuple[int, str]) -> None:
        number, identity = taken
        try:
            self._work[number].see_through(identity)
        except Exception:  # noqa: BLE001  a defect costs one try, and not the thread
            structlog.get_logger().exception("not seen through", what=identity)
            self._stopping.wait(POLL_SECONDS)
        finally:
            with self._lock:
                self._at_work.discard(taken)

    def _clean(self) -> None:
        while True:
            try:
                self._sweep()
            except Exception as error:  # noqa: BLE001  likewise
                structlog.get_logger().warning("not swept", reason=type(error).__name__)
            if self._stopping.wait(SWEEP_SECONDS):
                return
