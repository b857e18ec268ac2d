"""Who gets a seat at the desk: uploads always one, tenants by turns."""

import threading
import time
from collections.abc import Sequence

from aslconvert.service.uploads.desk import Desk, by_turns


class Slow:
    """Work that lasts until it is let go."""

    def __init__(self, *waiting: str) -> None:
        self.todo, self.begun = list(waiting), list[str]()
        self.let_go = threading.Event()

    def waiting(self) -> Sequence[str]:
        return self.todo

    def see_through(self, identity: str) -> None:
        self.begun.append(identity)
        self.let_go.wait(30)
        self.todo.remove(identity)

    def until_begun(self, number: int) -> None:
        until = time.monotonic() + 20
        while len(self.begun) < number and time.monotonic() < until:
            time.sleep(0.01)


def test_tenants_take_turns() -> None:
    waiting = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]
    assert by_turns(waiting) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_previews_leave_a_seat_to_uploads() -> None:
    uploads, previews, stopping = Slow(), Slow("p1", "p2", "p3"), threading.Event()
    with Desk([uploads, previews], seats=3, sweep=lambda: None, stopping=stopping) as desk:
        try:
            previews.until_begun(3)
            assert sorted(previews.begun) == ["p1", "p2"]
            uploads.todo.append("u1")
            desk.wake()
            uploads.until_begun(1)
            assert uploads.begun == ["u1"]
        finally:
            stopping.set()
            previews.let_go.set()
            uploads.let_go.set()
