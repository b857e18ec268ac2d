"""What the client wants done, as values: one core of generators yields them, a driver that blocks or awaits does them.

A core function is written once, as `Steps[T]`: it yields effects, gets their results back and returns a T.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class FilePart:
    """``length`` bytes of a file from ``start``, read while they are sent."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request; ``path`` begins at the server's address, ``read_seconds`` bounds the wait for each further byte."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str | list[str]] = field(default_factory=dict)
    json: Any = None
    content: FilePart | None = None
    read_seconds: float | None = None


@dataclass(frozen=True)
class Reply:
    """A whole answer; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Stream:
    """An answer whose body is read piece by piece; ``handle`` is the driver's own."""

    status: int
    headers: Mapping[str, str]
    handle: object


@dataclass(frozen=True)
class Send:
    """Gives a `Reply`, or raises httpx.TransportError."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Gives a `Stream`, or raises httpx.TransportError. The driver closes at the end what was not closed."""

    request: Request


@dataclass(frozen=True)
class Read:
    """Gives the next bytes of a stream, empty at its end, or raises httpx.TransportError."""

    stream: Stream


@dataclass(frozen=True)
class Close:
    """Closes a stream."""

    stream: Stream


@dataclass(frozen=True)
class Pause:
    """Waits so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Gives what the function gives; it may block on a disk, and so gets a thread of its own where others wait."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Emit:
    """Hands a value to whoever iterates."""

    value: Any


Effect: TypeAlias = Send | Open | Read | Close | Pause | Work | Emit
Steps: TypeAlias = Generator[Effect, Any, T]


class Run(Generic[T]):
    """Steps under way: drivers ask for the next effect with the outcome of the last."""

    result: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps

    def advance(self, answer: Any = None, error: Exception | None = None) -> Effect | None:
        """The next effect, or None when the steps have ended and ``result`` is there."""
        try:
            return self._steps.send(answer) if error is None else self._steps.throw(error)
        except StopIteration as end:
            self.result = end.value
            return None

    def close(self) -> None:
        """Give up: files that the steps hold open are closed."""
        self._steps.close()


def send(request: Request) -> Steps[Reply]:
    """One try. Raises httpx.TransportError."""
    reply: Reply = yield Send(request)
    return reply


def open_stream(request: Request) -> Steps[Stream]:
    """One try. Raises httpx.TransportError."""
    stream: Stream = yield Open(request)
    return stream


def work(function: Callable[[], T]) -> Steps[T]:
    """The function's value."""
    value: T = yield Work(function)
    return value
