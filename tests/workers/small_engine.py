"""An engine whose jobs do what their options say, in no time, for tests of all that is around an engine."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Told(Exception):
    def __init__(self, kind: str) -> None:
        super().__init__("as asked")
        self.kind, self.code, self.message, self.hint = kind, f"{kind}_trouble", "as asked", "ask for something else"


def run(*, kind: str, payload: dict[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    options = dict(payload["options"])
    if "do" not in options:
        # Those of a job that came over HTTP are a conversion's.
        options = {"do": options["metric"], "to": options.get("heal_steps"), "pause": 0.03}
    out = folder / "out"
    out.mkdir(exist_ok=True)
    tell("stage", stage="at work")
    result: dict[str, Any] = _DO[options["do"]](options, payload, out, tell)
    return result


def _write(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    (out / "answer.txt").write_text((out.parent / "in" / payload["model"]).read_text().upper())
    tell("progress", done=1, total=1, unit="answers", loss=0.5)
    tell("note", text="written")
    return {"files": ["answer.txt"], "accumulate": options.get("accumulate")}


def _count(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Counts on from the state that an earlier attempt left."""
    state = out / ".state" / "count"
    state.parent.mkdir(exist_ok=True)
    begun = int(state.read_text()) if payload.get("resume") else 0
    for number in range(begun, options["to"]):
        time.sleep(options.get("pause", 0.02))
        written = state.with_name(".count.new")
        written.write_text(str(number + 1))
        written.rename(state)
        tell("progress", done=number + 1, total=options["to"], unit="numbers")
    (out / "answer.txt").write_text(str(options["to"]))
    return {"files": ["answer.txt"], "begun": begun}


def _hang(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            tell("note", text="I will not stop")


def _fail(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    raise Told(options["kind"])


def _memory(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    if options.get("accumulate", 1) < options["needs"]:
        raise MemoryError
    return _write(options, payload, out, tell)


def _crash(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    os.kill(os.getpid(), options["signal"])
    time.sleep(60)
    raise AssertionError


def _lie(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    (out / "real.txt").write_text("real")
    (out / "link.txt").symlink_to("/etc/hostname")
    (out / "report.json").write_text('{"artifacts": [{"path": "real.txt", "sha256": "' + "0" * 64 + '"}]}')
    return {"files": options["files"]}


def _spill(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Writes small files without end."""
    number = 0
    while True:
        folder = out / "spilt" / str(number // 1000)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_bytes(bytes(options["size"]))
        number += 1


def _babble(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    if options["much"] == "long":
        tell("note", text="x" * (2 << 20))
    for _ in range(20_000):
        tell("note", text="x")
    return {"files": []}


def _trick(options: dict[str, Any], payload: dict[str, Any], out: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Leaves something else than plain files where the worker will look for files."""
    folder, how = out.parent, options["how"]
    if how == "out":
        out.rmdir()
        out.symlink_to("/etc")
        return {"files": ["hostname"]}
    if how == "folder":
        (out / "sub").symlink_to("/etc")
        return {"files": ["sub/hostname"]}
    if how == "pipe":
        os.mkfifo(out / "report.json")
        return {"files": ["report.json"]}
    if how == "endless":
        (out / "report.json").symlink_to("/dev/zero")
        return {"files": ["report.json"]}
    if how == "deep":
        above = os.open(folder, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=above)
            deep = os.open("d", os.O_RDONLY, dir_fd=above)
            os.close(above)
            above = deep
        raise Told("user")
    if how == "state":
        (out / ".state").mkdir()
        (out / ".state" / "x").symlink_to(options["secret"])
        (out / ".state" / "y").write_text("plain")
    if how == "states":
        (out / ".state").symlink_to(Path(options["secret"]).parent)
    raise Told("infrastructure")


_DO = {
    "write": _write, "count": _count, "hang": _hang, "fail": _fail, "memory": _memory, "crash": _crash, "lie": _lie,
    "babble": _babble, "trick": _trick, "spill": _spill,
}  # fmt: skip
