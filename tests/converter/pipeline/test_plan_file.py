"""A run with the plan of another one repeats it: the same plans and steps, the same choice, the same bytes."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from aslconvert.converter.errors import UsageError
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline import convert
from aslconvert.converter.pipeline.plan_file import identity_of, plan_bytes, read_plan
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.subject import open_subject
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.pipeline.variants import Made
from aslconvert.converter.report.schema import Report

pytestmark = pytest.mark.long

OPTIONS = ConvertOptions(threads=1, max_drop=9.0, artifacts=("portable", "onnx", "weights"))


@pytest.fixture(scope="module")
def plan(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of one variant whose costs are given instead of measured."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    subject = open_subject(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), options=OPTIONS)
    rows = {"0": 16, "2": 48}
    costs = {site.name: {None: 1.0, **({rows[site.name]: 0.4} if site.name in rows else {})} for site in subject.sites}
    found = Survey(costs=costs, kept={}, damage={name: {count: 0.1} for name, count in rows.items()}, importance={})
    made = Made(Planned("x2.00", {**dict.fromkeys(costs), **rows}, 2.0, 2.0), subject.gm, {}, 0.0, 3, 0.0, 0.0)
    path.write_bytes(plan_bytes([made], found, chosen="x2.00", packed=True, identity=identity_of(subject, OPTIONS)))
    return path


@pytest.fixture(scope="module")
def runs(
    quick: None, workshop: Path, plan: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report, Path, Report]:
    """Two conversions: by the given plan, and by the plan that the first one wrote."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))

    def run(out: Path, given: Path) -> Report:
        options = dataclasses.replace(OPTIONS, plan=given, dump_passes=out / "passes")
        return convert(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), out=out, options=options)

    report = run(first, plan)
    # Into a folder that holds an earlier conversion, of which every file was another one.
    shutil.copytree(first, second, dirs_exist_ok=True)
    for path in [path for path in second.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes() + b"\n")
    return first, report, second, run(second, first / "plan.json")


def test_the_plan_gives_the_same_bytes_again(runs: tuple[Path, Report, Path, Report]) -> None:
    first, report, second, again = runs
    assert report.chosen == again.chosen == "x2.00"
    chosen = report.chosen_variant
    assert chosen is not None
    assert {name: choice.rows for name, choice in chosen.plan.items() if choice.rows} == {"0": 16, "2": 48}
    assert "3 steps" in chosen.note
    hashes = {artifact.path: artifact.sha256 for artifact in report.artifacts}
    assert len(hashes) == 3
    assert {artifact.path: artifact.sha256 for artifact in again.artifacts} == hashes
    for name in ("plan.json", "artifacts.json", "check.safetensors", *hashes):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_every_pass_of_the_run_is_written_down(runs: tuple[Path, Report, Path, Report]) -> None:
    folder = runs[0] / "passes"
    lines = (folder / "passes.txt").read_text().splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == [
        "prepare", "fold_batch_norm", "replace_sites", "fold_batch_norm", "arrange_sources", "lower",
    ]  # fmt: skip
    assert "+2 asl.active_shift" in lines[2]
    assert "asl.active_shift" in (folder / "03-replace_sites.after.txt").read_text()
    assert "asl.active_shift" not in (folder / "06-lower.after.txt").read_text()
    for path in folder.iterdir():
        assert path.read_bytes() == (runs[2] / "passes" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, "plan_mismatch"),
        ({"version": 9}, "plan_invalid"),
        ({"chosen": "x99"}, "plan_invalid"),
        ({"plans": []}, "plan_invalid"),
        ({"costs": 3}, "plan_invalid"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan: Path, tmp_path: Path, change: dict[str, object], code: str) -> None:
    record = {**json.loads(plan.read_text()), **change}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError) as caught:
        read_plan(path, identity=record["for"] if change else "another model")
    assert caught.value.code == code


def test_a_missing_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_plan(tmp_path / "plan.json", identity="")
    assert caught.value.code == "plan_missing"
