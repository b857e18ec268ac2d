"""Files of uploads under way: as long as what was received, held by one writer at a time, whole again after a crash.

A lock on the file itself keeps writers apart, in other processes too, and dies with its holder. What must come whole or
not at all begins with a mark, a small file that says how long the upload was before; whoever finds a mark and holds the
lock cuts the file back to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aslconvert.service.errors import Conflict, NotFound
from aslconvert.workers.errors import InternalError
from aslconvert.workers.storage.staging import coded

_ID: Final = re.compile(r"[0-9a-f-]{36}")
MOST_PARTS: Final = 64
"""That one call of the kernel is given; it takes 1024 at most."""

_PLACE: Final = re.compile(r"[0-9a-f]{32}")


def is_id(name: str) -> bool:
    """Whether it is an upload's id."""
    return _ID.fullmatch(name) is not None


class Locked(Conflict):
    """Somebody else writes to the upload at this moment, or it is being vetted."""

    status = 423

    def __init__(self) -> None:
        super().__init__(
            "upload_locked",
            "Another request is at work on this upload.",
            hint="Ask for its offset and go on when that one has ended.",
            headers={"Retry-After": "1"},
        )


class Staging:
    """The folder of staged uploads; processes that share it share ``place``, its name in the database.

    Methods raise InfrastructureError (``disk_full``, ``storage_unavailable``) when the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with coded():
            folder.mkdir(parents=True, exist_ok=True)
            self.place = _place(folder)

    def path(self, upload_id: str) -> Path:
        """Where the bytes of an upload are."""
        if not _ID.fullmatch(upload_id):
            raise InternalError("bad_id", "An upload's id is 36 hexadecimal digits and dashes.")
        return self.folder / f"{upload_id}.part"

    def create(self, upload_id: str) -> None:
        """An empty file that outlives a power cut."""
        with coded():
            handle = os.open(self.path(upload_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.close(handle)
            _sync_folder(self.folder)

    def received(self, upload_id: str) -> int | None:
        """Bytes that count, also while somebody writes; None where there is no file."""
        path = self.path(upload_id)
        with coded(), contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            mark = _read_mark(path)
            return size if mark is None else min(mark, size)
        return None

    @contextlib.contextmanager
    def held(self, upload_id: str) -> Iterator[Held]:
        """The file, for this caller alone, cut back to what counts.

        Raises:
            Locked: somebody else has it.
            NotFound: there is no such file, or no more.
        """
        path = self.path(upload_id)
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound("upload", upload_id) from error
        held: Held | None = None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Locked from error
            with coded():
                # Whoever held it before may have removed it or made a blob of it.
                if not path.exists() or path.stat().st_ino != os.fstat(handle).st_ino:
                    raise NotFound("upload", upload_id)
                held = Held(path, handle)
            yield held
        finally:
            if held is None:
                os.close(handle)
            else:
                held.close()

    def remove(self, upload_id: str) -> None:
        """Remove the file, which the caller holds or nobody can hold any more."""
        path = self.path(upload_id)
        with coded():
            path.unlink(missing_ok=True)
            _mark(path).unlink(missing_ok=True)

    def ids(self) -> list[str]:
        """Every upload that has a file here."""
        with coded():
            return sorted(path.stem for path in self.folder.glob("*.part") if _ID.fullmatch(path.stem))


class Held:
    """A file under its lock. ``offset`` is its length in bytes.

    Safe for threads: one that still writes is waited for, and one that comes late does nothing, as the file may be
    somebody else's by then.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle
        self._lock = threading.RLock()
        self._closed = False
        self._mark: int | None = _read_mark(path)
        self.offset = os.fstat(handle).st_size
        if _mark(path).exists():
            # Without a number the mark was not written whole: then nothing was written after it either.
            self._mark = self.offset if self._mark is None else self._mark
            self.undo()

    @property
    def idle_seconds(self) -> float:
        """How long nobody has written to it, by the wall clock."""
        return time.time() - os.fstat(self._handle).st_mtime

    def append(self, *parts: bytes) -> None:
        """More bytes at the end; after an error as many of them as the disk took."""
        begun = self.offset
        with self._at_work():
            views = [memoryview(part) for part in parts if part]
            while views:
                count = os.pwritev(self._handle, views[:MOST_PARTS], self.offset)
                self.offset += count
                while views and count >= len(views[0]):
                    count -= len(views.pop(0))
                if count:
                    views[0] = views[0][count:]
            # Has the disk begin now, while more bytes come: `keep` has the less to wait for.
            os.posix_fadvise(self._handle, begun, self.offset - begun, os.POSIX_FADV_DONTNEED)

    def begin(self) -> None:
        """What follows counts only with `keep`."""
        mark = _mark(self.path)
        with self._at_work():
            self._mark = self.offset
            handle = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, f"{self._mark}\n".encode())
                os.fsync(handle)
            finally:
                os.close(handle)
            _sync_folder(self.path.parent)

    def undo(self) -> None:
        """Back to where `begin` was called, if it was."""
        with self._at_work():
            if self._mark is None:
                return
            if self._mark < self.offset:
                os.ftruncate(self._handle, self._mark)
                self.offset = self._mark
            os.fsync(self._handle)
            self._unmark()

    def keep(self) -> None:
        """Bring what was written to the disk; from here on it counts."""
        with self._at_work():
            os.fsync(self._handle)
            if self._mark is not None:
                self._unmark()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._closed = True
            os.close(self._handle)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._lock, coded():
            if self._closed:
                raise InternalError("upload_let_go", "The file of the upload is not held any more.")
            yield

    def _unmark(self) -> None:
        _mark(self.path).unlink(missing_ok=True)
        _sync_folder(self.path.parent)
        self._mark = None


def _mark(path: Path) -> Path:
    return path.with_suffix(".mark")


def _read_mark(path: Path) -> int | None:
    """The length that a mark names; None without one, or with one that was not written whole."""
    try:
        text = _mark(path).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    return int(text) if text.endswith("\n") and text.strip().isdecimal() else None


def _place(folder: Path) -> str:
    """The folder's own name, made once: of two processes that start at once one wins."""
    path = folder / "place"
    beside = folder / f".place-{secrets.token_hex(8)}"
    with beside.open("w", encoding="ascii") as file:
        file.write(secrets.token_hex(16))
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(beside, path)
    beside.unlink()
    _sync_folder(folder)
    found = path.read_text(encoding="ascii")
    if not _PLACE.fullmatch(found):
        raise InternalError("bad_place", "The staging folder has lost its name.")
    return found


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
