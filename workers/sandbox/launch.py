"""The parent's side of a sandbox: starts the process of a job, reads its events and ends it with all it started."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from aslconvert.workers.plain import remove_tree
from aslconvert.workers.sandbox.footprint import Footprint
from aslconvert.workers.sandbox.limits import Limits

LINE_BYTES = 1 << 20
"""An event is no longer than this; a process that sends more is ended."""

READ_BYTES = 1 << 16
LOG = "log.txt"
PASSED_ON = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")
"""Of the parent's environment; nothing else of it reaches the job."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One job: ``kind`` and ``payload`` go to ``engine`` ("module:function"); ``folder`` is all that it may write.

    Its parent is the worker's: what the job must not change, its specification and its log, lies there.
    ``readable`` are further trees and files. ``strict``: fail where the kernel grants less than the whole confinement.
    ``loopback``: its processes may speak to each other over TCP, where the network is a namespace of the job's own.
    ``environment`` is added to the little that the process gets.
    """

    kind: str
    payload: Mapping[str, Any]
    folder: Path
    engine: str
    limits: Limits = field(default_factory=Limits)
    readable: Sequence[Path] = ()
    environment: Mapping[str, str] | None = None
    strict: bool = False
    loopback: bool = False


@dataclass(frozen=True)
class Event:
    """What a job told: ``kind``, its data, and the time at which it says so."""

    kind: str
    data: Mapping[str, Any]
    at: float


class BadEvent(Exception):
    """The process sent something that is no event."""


class Sandbox:
    """The running process of a job. Close it: that ends the process group and waits for it."""

    def __init__(self, spec: Spec) -> None:
        # The process starts in the folder: a path from here would lead nowhere there.
        spec = replace(
            spec, folder=spec.folder.absolute(), readable=tuple(Path(place).absolute() for place in spec.readable)
        )
        self.spec = spec
        self._footprint = Footprint(spec.folder, spec.limits)
        self._rest = b""
        self._private = spec.folder / "tmp"
        self._private.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            log = undo.enter_context((spec.folder.parent / LOG).open("ab"))
            ours, theirs = os.pipe()
            undo.callback(os.close, theirs)
            failed = undo.enter_context(contextlib.ExitStack())
            failed.callback(os.close, ours)
            path = spec.folder.parent / "spec.json"
            path.write_text(json.dumps(self._record(theirs)), encoding="utf-8")
            os.set_blocking(ours, False)
            os.set_inheritable(theirs, True)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aslconvert.workers.sandbox.child", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs,),
                start_new_session=True,
                env=self._environment(),
                cwd=spec.folder,
            )
            failed.pop_all()
        self._events = ours

    def _record(self, events: int) -> dict[str, Any]:
        return {
            "parent": os.getpid(),
            "events": events,
            "kind": self.spec.kind,
            "payload": dict(self.spec.payload),
            "folder": str(self.spec.folder),
            "engine": self.spec.engine,
            "limits": asdict(self.spec.limits),
            "readable": [str(place) for place in self.spec.readable],
            "strict": self.spec.strict,
            "loopback": self.spec.loopback,
        }

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        private = str(self._private)
        own = {"HOME": private, "TMPDIR": private, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, **own, **(self.spec.environment or {})}

    def events(self, *, seconds: float) -> Iterator[Event]:
        """What arrives within ``seconds``, as it comes; ends early when the process has closed its end.

        Raises:
            BadEvent: a line is too long or no event.
        """
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._events, selectors.EVENT_READ)
            while (left := until - time.monotonic()) > 0 and selector.select(left):
                data = os.read(self._events, READ_BYTES)
                if not data:
                    # Nothing more can come; whoever reads again must not spin until the process has ended.
                    self.wait(seconds=left)
                    return
                *lines, self._rest = (self._rest + data).split(b"\n")
                if len(self._rest) > LINE_BYTES:
                    raise BadEvent(f"a line of more than {LINE_BYTES} bytes")
                yield from map(parse_event, lines)

    def excess(self) -> str:
        """Which limit on all its files together it has passed, as a sentence, or nothing; to be asked now and then."""
        return self._footprint.excess()

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started, at once."""
        self._signal(signal.SIGKILL)

    def wait(self, *, seconds: float | None = None) -> int | None:
        """Its exit status, negative for a signal; None while it runs on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def close(self) -> None:
        """Kill what is left, wait for it and remove its temporary files."""
        self.kill()
        self.process.wait()
        # Without a process namespace what the process started outlives it, in its group.
        self.kill()
        os.close(self._events)
        remove_tree(self._private)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def parse_event(line: bytes) -> Event:
    """The event of a line.

    Raises:
        BadEvent: it is none.
    """
    try:
        record = json.loads(line, parse_constant=_finite, parse_float=_finite)
        kind, data, at = record["kind"], record["data"], float(record["at"])
        if not isinstance(kind, str) or not isinstance(data, dict):
            raise TypeError("a kind is a text, data is an object")
        return Event(kind, _storable(data), at)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BadEvent(f"no event: {line[:100]!r}") from error


def _finite(text: str) -> float | None:
    """Nothing for what JSON has no number for, such as a loss that is NaN."""
    value = float(text)
    return value if math.isfinite(value) else None


def _storable(value: Any) -> Any:
    """Without the characters that no database takes: NUL, and halves of pairs."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value
