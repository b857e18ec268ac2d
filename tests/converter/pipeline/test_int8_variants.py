"""`--allow int8`: the original and its variants in 8 bits are made, told, chosen, written and repeated."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aslconvert.converter.cost.bench import bench
from aslconvert.converter.errors import InternalError, TargetNotReached, UsageError
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.recipes import Recipe, quantise
from aslconvert.converter.export.reexport import reexport_like
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.pipeline import convert, planning, quantised, timing
from aslconvert.converter.pipeline.plan_file import identity_of, plan_bytes
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.quantised import Quantised, int8_form, original_made, quantised_variants
from aslconvert.converter.pipeline.style import FUSED_STYLE
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.pipeline.variants import Made
from aslconvert.converter.progress import SilentProgress
from aslconvert.converter.report.schema import Report

pytestmark = pytest.mark.long

OPTIONS = ConvertOptions(threads=1, max_drop=9.0, artifacts=("portable", "onnx"), allow=("int8",))
ROWS = {"0": 16, "2": 48}
RECIPE = Recipe(equalised=True, corrected=True)


@pytest.fixture(scope="module")
def subject(workshop: Path) -> Subject:
    return open_subject(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), options=OPTIONS)


def plan_text(subject: Subject, chosen: str) -> bytes:
    kept: dict[str, int | None] = dict.fromkeys((site.name for site in subject.sites), None)
    planned = Planned("x2.00", {**kept, **ROWS}, 2.0, 2.0)
    costs = {site.name: {None: 1.0, **({ROWS[site.name]: 0.4} if site.name in ROWS else {})} for site in subject.sites}
    found = Survey(costs=costs, kept={}, damage={name: {count: 0.1} for name, count in ROWS.items()}, importance={})
    made = [Made(planned, subject.gm, {}, 0.0, 3, 0.0, 0.0)]
    identity = identity_of(subject, OPTIONS)
    names = ("original-int8", "x2.00-int8")
    rounded = [Quantised(name, made[0], b"", RECIPE, 0.0, 0.0) for name in names]
    return plan_bytes(made, found, chosen=chosen, packed=False, identity=identity, quantised=rounded)


@pytest.fixture(scope="module")
def runs(
    quick: None, workshop: Path, subject: Subject, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report, Path, Report]:
    """Two conversions: by a plan whose choice is in 8 bits, and by the plan that the first one wrote."""
    first, second, given = (tmp_path_factory.mktemp(name) for name in ("first", "second", "plan"))
    (given / "plan.json").write_bytes(plan_text(subject, "x2.00-int8"))

    def run(out: Path, plan: Path) -> Report:
        options = dataclasses.replace(OPTIONS, plan=plan)
        return convert(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), out=out, options=options)

    report = run(first, given / "plan.json")
    return first, report, second, run(second, first / "plan.json")


def test_the_report_tells_every_variant_in_8_bits(runs: tuple[Path, Report, Path, Report]) -> None:
    _, report, _, _ = runs
    by_id = {variant.id: variant for variant in report.variants}
    assert list(by_id) == ["x2.00", "original-int8", "x2.00-int8"]
    assert report.chosen == "x2.00-int8"
    assert report.variants_left_out == {}
    assert by_id["x2.00"].quantisation is None
    alone, both, shifted = by_id["original-int8"], by_id["x2.00-int8"], by_id["x2.00"]
    for variant, of in ((alone, "original"), (both, "x2.00")):
        assert variant.precision == "int8"
        assert variant.quantisation is not None
        assert (variant.quantisation.of, variant.quantisation.recipe) == (of, RECIPE.name)
        assert variant.quantisation.plain_error > 0
        assert set(variant.latency) <= {"onnxruntime", "openvino"}
        # The original, in whatever runtime is its fastest, is what every speed-up is against.
        fastest = report.original.latency[report.original.fastest_runtime].p50_ms
        best = variant.latency[variant.fastest_runtime].p50_ms
        assert variant.best_speedup == pytest.approx(fastest / best)
        assert variant.predicted_speedup is None
    assert 0 < alone.agreement.relative_l2 < 0.1
    # Rounding comes on top of what shifting lost.
    assert both.agreement.relative_l2 > 0.9 * shifted.agreement.relative_l2
    assert both.plan == shifted.plan
    assert both.bytes < shifted.bytes
    assert all(choice.action == "keep" for choice in alone.plan.values())
    assert {site.name for site in report.sites if site.action == "asl"} == set(ROWS)
    assert all(site.latency_after_ms is None for site in report.sites)
    assert report.timings["quantise"] > 0


def test_the_file_in_8_bits_is_the_artifact_of_the_choice(runs: tuple[Path, Report, Path, Report]) -> None:
    first, report, _, _ = runs
    artifacts = {artifact.kind: artifact for artifact in report.artifacts}
    # It was not asked for, but is what was chosen; the float ones are beside it.
    assert set(artifacts) == {"portable", "onnx", "int8"}
    assert all(artifact.reloaded for artifact in report.artifacts)
    chosen = report.chosen_variant
    assert chosen is not None
    assert artifacts["int8"].bytes == (first / "model.int8.onnx").stat().st_size > chosen.bytes
    assert artifacts["int8"].agreement == chosen.agreement
    timed = bench(first, runtimes=["onnxruntime"], threads=1, rounds=3)
    assert "model.int8.onnx" in {row.file for row in timed.rows if row.latency is not None}
    page = (first / "report.html").read_text()
    assert RECIPE.name in page
    assert "in 8 bits" in page


def test_a_plan_repeats_the_file_to_the_byte(runs: tuple[Path, Report, Path, Report]) -> None:
    first, _, second, again = runs
    assert again.chosen == "x2.00-int8"
    for name in ("model.int8.onnx", "model.onnx", "plan.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    kept = {row["id"]: row["equalised"] for row in json.loads((first / "plan.json").read_text())["int8"]}
    assert kept == {"original-int8": True, "x2.00-int8": True}


def test_a_plan_without_the_chosen_variant_is_refused(workshop: Path, subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(plan_text(subject, "x3.00-int8"))
    with pytest.raises(UsageError) as caught:
        convert(
            str(workshop / "net.pt2"),
            data=str(workshop / "data.npz"),
            out=tmp_path / "out",
            options=dataclasses.replace(OPTIONS, plan=tmp_path / "plan.json"),
        )
    assert caught.value.code == "plan_invalid"


def test_every_source_is_searched_and_what_fails_is_told(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = subject.calibration(OPTIONS)[:2]
    source = dataclasses.replace(original_made(subject), planned=Planned("x9.00", {}, 9.0, 9.0))
    found, left_out = quantised_variants([source], subject, batches, OPTIONS, SilentProgress())
    assert {item.id for item in found} >= {"original-int8", "x9.00-int8"}
    assert left_out == {}
    for item in found:
        assert item.error <= item.plain_error
    x = subject.data.split("test").batch([0, 1]).inputs
    with torch.no_grad():
        wanted = subject.gm(*x)
    outputs = [int8_form(found[0].data, runtime)(*x)[0] for runtime in ("onnxruntime", "openvino")]
    for given in outputs:
        assert 0 < float((given - wanted).norm() / wanted.norm()) < 0.05
    # Both are right, though they round differently: that is why each file is scored where it is timed.
    assert float((outputs[0] - outputs[1]).norm() / wanted.norm()) < 0.03

    def fails(*_: object, **__: object) -> None:
        raise InternalError("int8_failed", "No form in 8 bits.")

    monkeypatch.setattr(quantised, "find_recipe", fails)
    found, left_out = quantised_variants([], subject, batches, OPTIONS, SilentProgress())
    assert found == []
    assert left_out == {"original-int8": "No form in 8 bits."}


def test_a_runtime_that_gives_other_outputs_is_left_out(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = subject.calibration(OPTIONS)[:1]
    data = quantise(onnx_bytes(reexport_like(lower(subject.gm), subject.program)), batches, Recipe())
    timer = Timer(subject.example, threads=1, seed=0)
    try:
        timer.add_int8("right", data)
        real = timing.FILE_RUNNERS["openvino"]

        def wrong(*given: Any, **options: Any) -> Any:
            run = real(*given, **options)
            return lambda: {port: -value for port, value in run().items()}

        monkeypatch.setitem(timing.FILE_RUNNERS, "openvino", wrong)
        timer.add_int8("wrong", data)
        found = timer.measure(rounds=3)
    finally:
        timer.close()
    assert set(found["right"]) == {"onnxruntime", "openvino"}
    assert set(found["wrong"]) == {"onnxruntime"}
    assert "other outputs" in timer.unavailable["openvino of wrong"]


def test_a_network_that_gains_nothing_by_shifts_may_still_be_quantised(
    quick: None, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object, **__: object) -> list[Planned]:
        raise TargetNotReached("does_not_pay", "Converting does not pay here.")

    monkeypatch.setattr(planning, "make_plans", slow)
    # Sites in files of an ONNX runtime are what no plan is made of here.
    monkeypatch.setattr(planning, "find_style", lambda *_, **__: FUSED_STYLE)
    report = convert(
        str(workshop / "net.pt2"),
        data=str(workshop / "data.npz"),
        out=tmp_path / "out",
        options=dataclasses.replace(OPTIONS, artifacts=("onnx",)),
    )
    assert report.chosen in ("original-int8", "original-int8-mixed")
    assert (tmp_path / "out" / "model.int8.onnx").is_file()
    assert {artifact.kind for artifact in report.artifacts} == {"onnx", "int8"}
    assert {site.action for site in report.sites} == {"keep"}
    assert {variant.quantisation.of for variant in report.variants if variant.quantisation} == {"original"}
