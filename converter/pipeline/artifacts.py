"""The last steps of a conversion: artifacts are written, reloaded and compared, then the report with its bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aslconvert.converter.export.atomic import write_files
from aslconvert.converter.export.int8 import open_session, run_onnx
from aslconvert.converter.export.verify import SUMS, verify_dir
from aslconvert.converter.export.write import CHECK, MANIFEST, left_out, write_artifacts
from aslconvert.converter.options import ARTIFACTS, ConvertOptions
from aslconvert.converter.passes.fast import int16_form
from aslconvert.converter.passes.stages import Stages
from aslconvert.converter.pipeline.judge import Judge, Score
from aslconvert.converter.pipeline.plan_file import PLAN
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.variants import Made
from aslconvert.converter.report.schema import Artifact, Report

BUNDLE = "report.zip"


def prove(
    out: Path,
    best: Made,
    subject: Subject,
    *,
    options: ConvertOptions,
    batches: Sequence[tuple[Tensor, ...]],
    stages: Stages,
    judge: Judge,
    packed: bool,
    int8: bytes | None = None,
    int8_score: Score | None = None,
) -> tuple[list[Artifact], dict[str, str]]:
    """Write the artifacts of ``best`` into ``out`` and reload each; also which could not be made, and why.

    ``packed`` chooses the fast form in channels_last. ``int8`` is the file in 8 bits, where there is one already, and
    ``int8_score`` its score in the runtime that it is fastest in. The forms in 8 and 16 bits are other functions than
    the variant: they are scored by ``judge`` like variants of their own.
    Raises VerificationFailed for an artifact that does not reproduce the variant.
    """
    done = "replace_sites" if best.cut is None else "replace_and_prune"
    stages.record(done, subject.gm, best.gm, preserves=False)
    # Those of an earlier conversion into this folder: its files are about to be replaced.
    (out / SUMS).unlink(missing_ok=True)
    written = write_artifacts(
        out,
        best.gm,
        subject.program,
        inputs=subject.example,
        kinds=options.written,
        calibration=batches,
        stages=stages,
        packed=packed,
        int8=int8,
    )
    sizes = {item["path"]: item["bytes"] for item in written}
    artifacts = []
    for proof in verify_dir(out):
        score = int8_score if proof["kind"] == "int8" else None
        score = score or _own_score(proof, out, best, judge)
        artifacts.append(
            Artifact(
                path=proof["path"],
                sha256=proof["sha256"],
                kind=proof["kind"],
                bytes=sizes.get(proof["path"]),
                max_abs_diff=proof["max_abs_diff"],
                tolerance=proof["tolerance"],
                reloaded=proof["reloaded"],
                checks=proof["checks"],
                notes=tuple(proof["notes"]),
                metric=None if score is None else score.metric,
                agreement=None if score is None else score.agreement,
            )
        )
    return artifacts, left_out(out)


def with_int8(options: ConvertOptions) -> ConvertOptions:
    """The options with the file in 8 bits among the artifacts: it is what was chosen."""
    wanted = {*options.artifacts, "int8"}
    return replace(options, artifacts=tuple(kind for kind in ARTIFACTS if kind in wanted))


def _own_score(proof: Mapping[str, Any], out: Path, best: Made, judge: Judge) -> Score | None:
    """Of an artifact that is another function than the variant."""
    if proof["kind"] == "int8":
        return judge.score(_onnx(out / proof["path"]))
    return judge.score(int16_form(best.gm)) if proof["kind"] == "int16" else None


def write_report(out: Path, report: Report, plan: bytes) -> None:
    """Write report.json, report.html, the plan, the bundle of all that is to be read, and the hashes of every file."""
    # Slow to import, for what draws the charts: predictions, refusals and whoever is interrupted do without.
    from aslconvert.converter.report.bundle import bundle_bytes
    from aslconvert.converter.report.html import render_html

    page = render_html(report)
    files = {"report.json": report.to_json().encode(), "report.html": page.encode(), PLAN: plan}
    files[BUNDLE] = bundle_bytes(report, page, plan)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name in (*(artifact.path for artifact in report.artifacts), MANIFEST, CHECK):
        sums[name] = hashlib.sha256((out / name).read_bytes()).hexdigest()
    files[SUMS] = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()
    write_files(out, files)


def _onnx(path: Path) -> Callable[..., Any]:
    session = open_session(path.read_bytes())
    names = [item.name for item in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return run_onnx(session, inputs, names)

    return run
