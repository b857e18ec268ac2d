"""Measured latencies of site candidates, kept in a file for each device they hold on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.export.atomic import write_file

VARIABLE = "ASLCONVERT_CACHE"
"""Names the folder of the cache instead of the user's own."""

MAKER = "aslconvert latency cache"
VERSION = 2

KEEP = "keep"
"""The candidate that is the convolution itself; the others are named by their rows."""

MOST_ENTRIES = 4096
"""Kinds of sites in one file; the oldest go first."""

_CODE = (
    "converter/cost/latency.py",
    "converter/search/candidates.py",
    "converter/search/costs.py",
    "converter/passes",
    "kernels",
)
"""Files and folders of Python that decide what a candidate runs; of the kernels' own code the library is hashed."""


@dataclass(frozen=True)
class Entry:
    """One kind of site: milliseconds by candidate, one figure a round, all candidates in the same rounds.

    ``gated`` is why no candidate is measurably faster than the convolution, None where one is.
    """

    samples: dict[str, tuple[float, ...]]
    gated: str | None


def cache_folder() -> Path:
    """``ASLCONVERT_CACHE``, else ``aslconvert`` in the user's cache folder of the XDG base directory specification."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "aslconvert"


def device_fingerprint(*, threads: int, int16: bool) -> dict[str, Any]:
    """What a candidate's latency depends on besides the candidate: the device, threads, versions and our code."""
    import torch

    from aslconvert.converter.cost.device import device_profile
    from aslconvert.kernels import build_info

    profile = device_profile(threads=threads)
    return {
        "cpu": profile.cpu,
        "isa": list(profile.isa),
        "torch_isa": profile.torch_isa,
        "cores": profile.cores,
        "threads": profile.threads,
        "system": profile.system,
        "torch": torch.__version__,
        "kernels": build_info(),
        "code": _code_hash(),
        "int16": int16,
    }


@dataclass
class LatencyCache:
    """Entries by kind of site, of one file. ``notes`` say what was wrong with it: nothing here ever fails a run."""

    path: Path
    fingerprint: Mapping[str, Any]
    entries: dict[str, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Write the entries, beside those that another run has written meanwhile."""
        merged = {**read_entries(self.path, self.fingerprint)[0], **self.entries}
        kept = dict(list(merged.items())[-MOST_ENTRIES:])
        record = {
            "maker": MAKER,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "entries": {kind: {"samples": one.samples, "gated": one.gated} for kind, one in kept.items()},
        }
        try:
            write_file(self.path, (json.dumps(record) + "\n").encode())
        except InfrastructureError as error:
            self.notes.append(f"measured latencies are not kept: {error.message}")


def open_cache(fingerprint: Mapping[str, Any], *, folder: Path | None = None) -> LatencyCache:
    """The cache of a device; a file that is damaged, or not ours, is told in ``notes`` and written anew."""
    text = json.dumps(fingerprint, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    path = (cache_folder() if folder is None else folder) / "latency" / f"{name}.json"
    entries, problem = read_entries(path, fingerprint)
    notes = [] if problem is None else [f"the latency cache {path} is ignored: {problem}"]
    return LatencyCache(path, fingerprint, entries, notes)


def read_entries(path: Path, fingerprint: Mapping[str, Any]) -> tuple[dict[str, Entry], str | None]:
    """The entries of the file at ``path`` if it is one of this device, and what is wrong with it otherwise."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["maker"] != MAKER or record["version"] != VERSION:
            return {}, "another program or version wrote it"
        if record["fingerprint"] != json.loads(json.dumps(fingerprint)):
            return {}, "it is of another device"
        return {str(kind): _entry(value) for kind, value in record["entries"].items()}, None
    except FileNotFoundError:
        return {}, None
    except (OSError, UnicodeDecodeError) as error:
        return {}, f"it cannot be read: {error}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, "it is damaged"


def _entry(value: Any) -> Entry:
    samples = {str(name): tuple(map(float, figures)) for name, figures in value["samples"].items()}
    rounds = {len(figures) for figures in samples.values()}
    gated = value["gated"]
    if KEEP not in samples or len(rounds) != 1 or min(rounds) < 3 or not (gated is None or isinstance(gated, str)):
        raise ValueError("no such entry")
    if not all(math.isfinite(ms) and ms > 0 for figures in samples.values() for ms in figures):
        raise ValueError("no such latency")
    return Entry(samples=samples, gated=gated)


def _code_hash() -> str:
    """Hash of what a candidate runs: an edit of a kernel or of a pass makes another device of this one."""
    from aslconvert.kernels.ops import LIBRARY_PATH

    root = Path(__file__).resolve().parents[2]
    files = [file for name in _CODE for file in ([root / name] if name.endswith(".py") else (root / name).glob("*.py"))]
    digest = hashlib.sha256()
    for file in [*sorted(files), LIBRARY_PATH]:
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
