"""Reloads every artifact of a folder in a fresh process and compares it with the stored outputs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aslconvert.converter.errors import InfrastructureError, UsageError, VerificationFailed
from aslconvert.converter.export import reload
from aslconvert.converter.export.kinds import KINDS, PLAIN, WITH_PACKAGE
from aslconvert.converter.export.write import MANIFEST

TIMEOUT_S = 600
SUMS = "SHA256SUMS"
"""The hashes of all files of a conversion, in the form that sha256sum reads."""


def verify_dir(folder: str | Path) -> list[dict[str, Any]]:
    """[{path, kind, sha256, max_abs_diff, tolerance, reloaded, checks, notes}] of every artifact in ``folder``.

    ``checks`` gives the greatest difference by where it ran; ``kinds.KINDS`` says which kinds are reloaded where
    aslconvert cannot be imported. Where SHA256SUMS lists more files, their hashes are compared too. Raises
    VerificationFailed naming each artifact that is missing, changed, unreadable or off, and UsageError for a folder
    without artifacts.
    """
    results = check_dir(folder)
    wrong = [result for result in results if result["error"]]
    if wrong:
        raise VerificationFailed(
            wrong[0]["code"],
            " ".join(f"'{result['path']}' {result['error']}." for result in wrong),
            hint="Convert the model again.",
        )
    return [{key: value for key, value in result.items() if key not in ("code", "error")} for result in results]


def check_dir(folder: str | Path) -> list[dict[str, Any]]:
    """As ``verify_dir``, but what is wrong is told in ``code`` and ``error`` of each result instead of raised."""
    folder = Path(folder).resolve()
    manifest = _manifest(folder)
    check = folder / manifest["check"]["path"]
    if not check.is_file() or _sha256(check) != manifest["check"]["sha256"]:
        raise VerificationFailed(
            "check_changed", f"'{check.name}' is missing or was changed.", hint="Convert the model again."
        )
    results = [_start(folder, artifact) for artifact in manifest["artifacts"]]
    results += _listed(folder, {result["path"] for result in results})
    sound = {result["path"] for result in results if not result["error"]}
    trusted = {**manifest, "artifacts": [a for a in manifest["artifacts"] if a["path"] in sound]}
    needed = [
        (names, process == WITH_PACKAGE)
        for process in (PLAIN, WITH_PACKAGE)
        if (names := _kinds_of(trusted["artifacts"], process))
    ]
    answers: dict[str, list[dict[str, Any]]] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        # Most of their time goes into importing torch, so they start side by side.
        for given in pool.map(lambda item: _fresh_process(folder, trusted, item[0], with_package=item[1]), needed):
            for path, answer in given.items():
                answers.setdefault(path, []).append(answer)
    for result in results:
        for answer in answers.get(result["path"], []):
            _judge(result, answer)
    return results


def _kinds_of(artifacts: list[dict[str, Any]], process: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(a["kind"] for a in artifacts if process in KINDS[a["kind"]].processes))


def _listed(folder: Path, known: set[str]) -> list[dict[str, Any]]:
    """What is wrong with the files that SHA256SUMS lists besides the artifacts."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationFailed("bad_sums", f"'{folder / SUMS}' cannot be read: {error}.") from error
    wrong = []
    for line in lines:
        digest, _, name = line.partition("  ")
        if name in known or Path(name).name != name:
            continue
        found = _start(folder, {"path": name, "kind": "file", "sha256": digest, "tolerance": 0.0})
        if found["error"]:
            wrong.append(found)
    return wrong


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if manifest["version"] != 1:
            raise ValueError(f"version {manifest['version']} is not known")
        _ = [manifest["check"]["cases"], [(a["path"], a["sha256"], KINDS[a["kind"]]) for a in manifest["artifacts"]]]
    except FileNotFoundError as error:
        raise UsageError(
            "no_artifacts", f"'{folder}' holds no {MANIFEST}.", hint="Give the folder that convert wrote."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationFailed("bad_manifest", f"'{path}' cannot be read: {error}.") from error
    return manifest


def _start(folder: Path, artifact: dict[str, Any]) -> dict[str, Any]:
    path = folder / artifact["path"]
    code, error = "", ""
    if not path.is_file():
        code, error = "artifact_missing", "is missing"
    elif _sha256(path) != artifact["sha256"]:
        code, error = "artifact_changed", "is not the file that was written"
    return {
        "path": artifact["path"],
        "kind": artifact["kind"],
        "sha256": artifact["sha256"],
        "max_abs_diff": None,
        "tolerance": artifact["tolerance"],
        "reloaded": False,
        "checks": {},
        "notes": list(artifact.get("notes", ())),
        "code": code,
        "error": error,
    }


def _judge(result: dict[str, Any], answer: dict[str, Any]) -> None:
    if "error" in answer:
        result["code"], result["error"] = "artifact_unreadable", f"does not run after a reload: {answer['error']}"
        result["reloaded"] = False
        return
    result["checks"].update(answer["checks"])
    result["notes"] += answer["notes"]
    result["max_abs_diff"] = max(result["checks"].values())
    result["reloaded"] = not result["error"]
    off = {where: value for where, value in answer["checks"].items() if value > result["tolerance"]}
    if off and not result["error"]:
        where, value = next(iter(off.items()))
        result["code"] = "artifact_differs"
        result["error"] = f"is off by {value:.3g} in {where}, allowed are {result['tolerance']:.3g}"


def _fresh_process(
    folder: Path, manifest: dict[str, Any], kinds: tuple[str, ...], *, with_package: bool
) -> dict[str, Any]:
    request = {"folder": str(folder), "manifest": manifest, "kinds": list(kinds), "aslconvert": with_package}
    # -P keeps this script's folder, full of our modules, off the path of the fresh process.
    command = [sys.executable, "-P", str(reload.__file__), json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError("verify_timeout", f"Reloading took longer than {TIMEOUT_S} s.") from error
    except OSError as error:
        raise InfrastructureError("no_process", f"No fresh process could be started: {error.strerror}.") from error
    lines = done.stdout.strip().splitlines()
    try:
        answers: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    except json.JSONDecodeError:
        answers = {}
    if done.returncode != 0 or not answers:
        last = done.stderr.strip().splitlines()
        raise VerificationFailed(
            "reload_crashed",
            f"The process that reloads {' and '.join(kinds)} ended with {done.returncode}: {last[-1] if last else ''}",
        )
    return answers


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
