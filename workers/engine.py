"""The work of a job inside its sandbox: rebuild what was uploaded, then inspect, convert or time it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from aslconvert.workers.vetting import vetted_inputs

Tell = Callable[..., None]

TELL_SECONDS = 0.25
"""Progress is told no more often than this."""

LEAST_ROUNDS = 3

NO_OPTION = frozenset({"device", "processes", "resume", "dry_run", "plan", "dump_passes", "cache"})
"""Options of a conversion that a job cannot set: paths, and what the worker decides."""

PROCESSES = "ASLCONVERT_PROCESSES"
"""In how many processes the worker lets its jobs heal."""

NOT_RESUMABLE = frozenset(
    {"bad_checkpoint", "damaged_checkpoint", "damaged_state", "nothing_to_resume", "resume_mismatch"}
)
"""Errors of a state that an earlier attempt left."""


def run(*, kind: str, payload: Mapping[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    """Do the job of ``kind`` below ``folder``, where the uploaded files lie in ``in``, and give its result.

    ``payload``: ``model`` and ``data`` name those files, ``architecture`` the network of bare weights, ``options`` are
    those of a conversion by their names, ``resume`` says whether ``out`` holds the state of an earlier attempt.

    Raises:
        AslconvertError, Refused: as of the engine and of the intake.
    """
    tell("stage", stage="intake")
    inputs = folder / "in"
    found = vetted_inputs(
        folder / "vetted",
        model=inputs / payload["model"],
        data=inputs / payload["data"] if payload.get("data") else None,
        architecture=payload.get("architecture"),
    )
    # Only now: what was uploaded has been rebuilt before torch is there to be attacked.
    from aslconvert.converter.errors import UsageError
    from aslconvert.converter.options import ConvertOptions, Crop

    given = dict(payload.get("options") or {})
    if kind == "bench":
        return _bench(str(found.model), given, _Told(tell))
    known = {field.name for field in dataclasses.fields(ConvertOptions)} - NO_OPTION
    if unknown := sorted(set(given) - known):
        raise UsageError(
            "option", f"No job has the option {unknown[0]!r}.", hint=f"There are {', '.join(sorted(known))}."
        )
    if isinstance(given.get("heal_crop"), Mapping):
        crop = given["heal_crop"]
        given["heal_crop"] = Crop(size=int(crop.get("size", 0)), multiple=int(crop.get("multiple", 1)))
    hints = get_type_hints(ConvertOptions)
    for name, value in given.items():
        if isinstance(value, list) and "tuple" in str(hints[name]):
            given[name] = tuple(value)
    if kind not in _WORK:
        raise UsageError("kind", f"There is no job of kind {kind!r}.", hint="There are bench, convert and inspect.")
    try:
        processes = int(os.environ.get(PROCESSES) or 1)
        options = ConvertOptions(**given, processes=processes, resume=bool(payload.get("resume")), cache=False)
    except TypeError as error:
        raise UsageError(
            "option", "An option has a value of the wrong type.", hint="See the options of convert."
        ) from error
    return _WORK[kind](str(found.model), found.data, options, folder / "out", _Told(tell))


class _Told:
    """A conversion's progress as events."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._last = 0.0

    def stage(self, name: str) -> None:
        """A new stage begins."""
        self._last = 0.0
        self._tell("stage", stage=name)

    def update(self, done: float, total: float, unit: str, **figures: float) -> None:
        """How much of it is done."""
        now = time.monotonic()
        if now - self._last >= TELL_SECONDS or done >= total:
            self._last = now
            self._tell("progress", done=done, total=total, unit=unit, **figures)

    def note(self, text: str) -> None:
        """A line to read."""
        self._tell("note", text=text)


def _convert(model: str, data: Path | None, options: Any, out: Path, told: _Told) -> dict[str, Any]:
    from aslconvert.converter.errors import AslconvertError, TargetNotReached, UsageError
    from aslconvert.converter.pipeline.convert import convert

    if data is None:
        raise UsageError("needs_data", "A conversion needs data.", hint="Name a data set.")
    missed = None
    try:
        try:
            convert(model, data=str(data), out=out, options=options, progress=told)
        except AslconvertError as error:
            if not options.resume or error.code not in NOT_RESUMABLE:
                raise
            # The state is of another version, or was damaged: what it would have saved is only time.
            told.note(f"It starts over, as its state cannot be gone on from: {error.message}")
            shutil.rmtree(out)
            again = dataclasses.replace(options, resume=False)
            convert(model, data=str(data), out=out, options=again, progress=told)
    except TargetNotReached as error:
        # The best that was found is a result as well, with a reason why it is not what was asked for.
        if not (out / "report.json").is_file():
            raise
        # The folder is one of this worker's, and gone when somebody reads of it.
        message = error.message.replace(f"'{out}'", "the result").replace(str(out), "the result")
        missed = {"code": error.code, "message": message, "hint": error.hint}
    files = sorted(
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.is_file() and not path.relative_to(out).parts[0].startswith(".")
    )
    return {"files": files, "missed": missed}


def _inspect(model: str, data: Path | None, options: Any, out: Path, told: _Told) -> dict[str, Any]:
    from aslconvert.converter.pipeline.predict import predict

    forecast = predict(model, data=None if data is None else str(data), options=options, progress=told)
    return {"files": [], "missed": None, "forecast": _plain(forecast)}


def _bench(model: str, given: dict[str, Any], told: _Told) -> dict[str, Any]:
    from aslconvert.converter.cost.bench import bench
    from aslconvert.converter.errors import UsageError

    known = {"runtimes": list, "shape": list, "threads": int, "rounds": int, "seed": int}
    for name, value in given.items():
        if name not in known:
            raise UsageError(
                "option", f"No bench has the option {name!r}.", hint=f"There are {', '.join(sorted(known))}."
            )
        items = value if known[name] is list and isinstance(value, list) else [value]
        wanted = str if name == "runtimes" else int
        if isinstance(value, list) != (known[name] is list) or not all(type(item) is wanted for item in items):
            raise UsageError("option", f"The option {name!r} has a value of the wrong type.", hint="See bench --help.")
    if given.get("rounds", LEAST_ROUNDS) < LEAST_ROUNDS:
        raise UsageError("option", f"A bench has {LEAST_ROUNDS} rounds or more.", hint="Give more rounds.")
    told.stage("bench")
    return {"files": [], "missed": None, "bench": _plain(bench(model, **given))}


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


_WORK = {"convert": _convert, "inspect": _inspect}
