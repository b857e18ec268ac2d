"""One whole conversion, interrupted and short of disk on its way: each time it says so, and at last it is proven."""

import contextlib
import importlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import quick_measurements
import torch

from aslconvert.cli.main import main
from aslconvert.converter.errors import TargetNotReached
from aslconvert.converter.export.verify import check_dir
from aslconvert.converter.options import DEFAULT_ARTIFACTS
from aslconvert.converter.pipeline.convert import tell_if_missed
from aslconvert.converter.report.schema import Report, read_report
from aslconvert.kernels import has_int16

pytestmark = pytest.mark.long

WISH = 1.2


@dataclass
class Resumed:
    """What each of the runs in one folder gave: interrupted, resumed on a full disk (None: no such disk), resumed."""

    out: Path
    interrupted: tuple[int, str]
    left: set[str]
    full: tuple[int, str] | None
    left_full: set[str]
    finished: tuple[int, str]


def names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def go_on(command: list[str], capture: io.StringIO) -> tuple[int, str]:
    with contextlib.redirect_stdout(capture), contextlib.redirect_stderr(capture):
        code = main([*command, "--resume", "--budget", "2s"])
    return code, capture.getvalue()


@pytest.fixture(scope="module")
def resumed(quick: None, workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resumed]:
    disk = tmp_path_factory.mktemp("disk")
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], capture_output=True).returncode
        == 0
    )
    out = disk / "out"
    command = ["convert", str(workshop / "net.pt2"), "--data", str(workshop / "data.npz"), "--out", str(out)]
    command += ["--min-speedup", str(WISH), "--threads", "1"]
    try:
        with subprocess.Popen(
            [sys.executable, quick_measurements.__file__, *command, "--budget", "5s"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as run:  # fmt: skip
            assert run.stderr is not None
            told = ""
            for line in run.stderr:
                told += line
                # The second one: of the first there is a checkpoint by then.
                if line.startswith("heal ") and told.count("heal ") == 2:
                    run.send_signal(signal.SIGINT)
                    break
            told += run.stderr.read()
            interrupted = (run.wait(timeout=60), told)
        left = names(out)
        full, left_full = None, set[str]()
        if mounted:
            # What healing keeps needs room of its own; the disk is full when the artifacts are to be written.
            with pytest.MonkeyPatch.context() as patch:
                module = importlib.import_module("aslconvert.converter.pipeline.artifacts")
                write = module.write_artifacts

                def fill_then_write(*args: Any, **kwargs: Any) -> Any:
                    free = shutil.disk_usage(disk).free
                    (disk / "other").write_bytes(bytes(max(free - 300_000, 0)))
                    return write(*args, **kwargs)

                patch.setattr(module, "write_artifacts", fill_then_write)
                full = go_on(command, io.StringIO())
            left_full = names(out)
            (disk / "other").unlink()
        finished = go_on(command, io.StringIO())
        yield Resumed(out, interrupted, left, full, left_full, finished)
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="module")
def report(resumed: Resumed) -> Report:
    return read_report(resumed.out / "report.json")


def test_the_frontier_has_at_least_five_points_and_its_ends_are_not_dominated(report: Report) -> None:
    assert len(report.variants) >= 5
    assert len({variant.id for variant in report.variants}) == len(report.variants)
    for best in (
        max(report.variants, key=lambda v: v.best_speedup),
        min(report.variants, key=lambda v: v.agreement.relative_l2),
    ):
        assert not best.dominated
    assert all(0 <= v.agreement.relative_l2 < 1 for v in report.variants)
    assert all("torch" in v.latency and v.latency["torch"].p50_ms > 0 for v in report.variants)


def test_accuracy_is_that_of_the_form_that_runs_fastest(report: Report) -> None:
    for variant in report.variants:
        assert ("torch_int16" in variant.latency) == has_int16()
        assert variant.precision == ("int16" if variant.fastest_runtime == "torch_int16" else "float32")
    assert [artifact.kind for artifact in report.artifacts if artifact.agreement is not None] == ["int16"]


def test_the_report_says_what_every_convolution_became(report: Report) -> None:
    chosen = report.chosen_variant
    assert chosen is not None
    assert {site.name for site in report.sites} == {"0", "2", "4"}
    assert {name: choice.rows for name, choice in chosen.plan.items()} == {
        site.name: site.rows if site.action == "asl" else None for site in report.sites if site.name in chosen.plan
    }
    assert sum(report.data.samples.values()) == 60
    assert {"open", "original", "search", "fit and heal", "measure"} <= set(report.timings)
    assert "compile" in report.runtimes_unavailable


def test_the_artifacts_are_those_that_were_verified(resumed: Resumed, report: Report) -> None:
    out = resumed.out
    assert tuple(artifact.kind for artifact in report.artifacts) == DEFAULT_ARTIFACTS
    assert not report.artifacts_left_out
    assert all(artifact.reloaded and artifact.max_abs_diff is not None for artifact in report.artifacts)
    assert all((out / artifact.path).stat().st_size == artifact.bytes for artifact in report.artifacts)
    # Nothing else is left: neither the state of a resumable run nor a half-written file.
    named = {artifact.path for artifact in report.artifacts}
    assert {path.name for path in out.iterdir()} - named == {
        "SHA256SUMS",
        "artifacts.json",
        "check.safetensors",
        "plan.json",
        "report.zip",
        "report.html",
        "report.json",
    }


def test_a_changed_artifact_is_found_out(resumed: Resumed, tmp_path: Path) -> None:
    for path in resumed.out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in tmp_path.iterdir():
        if path.suffix in (".pt2", ".onnx", ".safetensors", ".py") and path.name != "check.safetensors":
            path.write_bytes(path.read_bytes()[:-40])
    assert {result["code"] for result in check_dir(tmp_path)} == {"artifact_changed"}


def test_a_changed_report_is_found_out(resumed: Resumed, tmp_path: Path) -> None:
    shutil.copytree(resumed.out, tmp_path / "copy")
    page = tmp_path / "copy" / "report.html"
    page.write_text(page.read_text().replace("Artifacts", "Artefacts"))
    (tmp_path / "copy" / "plan.json").unlink()
    # What is changed is told by its hash alone; nothing has to be loaded for that.
    manifest = json.loads((tmp_path / "copy" / "artifacts.json").read_text())
    (tmp_path / "copy" / "artifacts.json").write_text(json.dumps({**manifest, "artifacts": []}))
    found = {result["path"]: result["code"] for result in check_dir(tmp_path / "copy")}
    assert found["report.html"] == "artifact_changed"
    assert found["plan.json"] == "artifact_missing"
    assert "report.json" not in found


def test_the_bundle_holds_what_there_is_to_read(resumed: Resumed, report: Report) -> None:
    with zipfile.ZipFile(resumed.out / "report.zip") as archive:
        assert archive.read("report.json") == (resumed.out / "report.json").read_bytes()
        assert archive.read("report.html") == (resumed.out / "report.html").read_bytes()
        rows = archive.read("variants.csv").decode().splitlines()
        assert len(archive.read("sites.csv").decode().splitlines()) == 1 + len(report.sites)
        for name in ("frontier.svg", "runtimes.svg"):
            picture = archive.read(name)
            assert picture.startswith(b"<svg")
            # The page's style sheet maps these marks to colours; alone they would all be black.
            assert not re.search(rb"#0\d0\d0\d", picture)
            assert len(set(re.findall(rb"#[0-9a-f]{6}", picture))) >= 4
    assert len(rows) == 2 + len(report.variants)
    assert rows[1].startswith("original,")


def test_the_portable_program_is_close_to_the_original(resumed: Resumed, workshop: Path, report: Report) -> None:
    # A plain loop over standard operators: no operator of ours is in it.
    program = torch.export.load(resumed.out / "portable.pt2")
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert targets
    assert all(target.startswith("aten.") for target in targets)
    x = torch.nn.functional.avg_pool2d(torch.randn(5, 3, 48, 48), 3, stride=1, padding=1)
    with torch.no_grad():
        original = torch.export.load(workshop / "net.pt2").module()(x)
        given = program.module()(x)
    error = float((given - original).norm() / original.norm())
    chosen = report.chosen_variant
    assert chosen is not None
    assert error < 2 * chosen.agreement.relative_l2 + 0.01


def test_an_interrupt_while_healing_can_be_resumed(resumed: Resumed) -> None:
    code, told = resumed.interrupted
    assert code == 130
    assert "--resume" in told
    assert "Traceback" not in told
    assert all(name.startswith(".state/") for name in resumed.left)
    assert [name for name in resumed.left if name.endswith(".heal.pt")], resumed.left
    assert not any(name.endswith((".tmp", ".partial")) for name in resumed.left)


def test_a_full_disk_leaves_no_artifact_and_stays_resumable(resumed: Resumed) -> None:
    if resumed.full is None:
        pytest.skip("this process may not mount a small disk")
    code, told = resumed.full
    assert code == 70
    assert "[disk_full]" in told
    assert "Traceback" not in told
    assert resumed.left_full
    assert all(name.startswith(".state/") for name in resumed.left_full)
    assert not any(name.endswith((".tmp", ".partial")) for name in resumed.left_full)


def test_the_resumed_run_ends_well_and_meets_the_wish(resumed: Resumed, report: Report) -> None:
    code, told = resumed.finished
    assert code == 0, told
    assert "plans" not in told.splitlines()
    chosen = report.chosen_variant
    assert chosen is not None
    assert chosen.best_speedup >= WISH


@pytest.mark.parametrize(
    ("speedup", "drop", "met", "code", "words"),
    [
        (1000.0, None, False, "speedup_not_reached", "1000 times"),
        (None, 1e-9, False, "accuracy_not_reached", "No variant"),
        (None, 1e-9, True, "accuracy_not_reached", "validate split"),
    ],
)
def test_a_missed_wish_is_told_with_what_was_reached(
    report: Report, speedup: float | None, drop: float | None, met: bool, code: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(TargetNotReached) as caught:
        tell_if_missed(report, min_speedup=speedup, max_drop=drop, met=met, out=tmp_path)
    assert (caught.value.code, caught.value.exit_code) == (code, 5)
    assert words in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert report.chosen is not None
    assert report.chosen in caught.value.message
