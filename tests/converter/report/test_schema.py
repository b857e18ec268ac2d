from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from aslconvert.converter.errors import UsageError
from aslconvert.converter.report.schema import Report, read_report


def test_a_report_survives_the_file(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json())
    assert read_report(path) == report


def test_the_file_has_the_keys_of_the_contract(report: Report) -> None:
    written = json.loads(report.to_json())
    assert written["schema_version"] == 1
    assert {
        "model",
        "device",
        "seeds",
        "versions",
        "original",
        "sites",
        "variants",
        "chosen",
        "artifacts",
        "timings",
    } <= set(written)
    assert {"metric", "latency", "params", "macs", "bytes"} <= set(written["original"])
    assert {
        "name",
        "kind",
        "action",
        "reason",
        "rows",
        "shifts",
        "fit_error",
        "latency_before_ms",
        "latency_after_ms",
    } <= set(written["sites"][0])
    variant = written["variants"][0]
    assert {
        "id",
        "plan",
        "metric",
        "agreement",
        "latency",
        "speedup",
        "params",
        "macs",
        "bytes",
        "dominated",
    } <= set(variant)
    assert {"name", "value", "ci"} <= set(variant["metric"])
    assert {"p50_ms", "p95_ms", "ci", "drift"} == set(variant["latency"]["torch"])
    assert {"path", "sha256", "kind", "max_abs_diff", "reloaded"} <= set(written["artifacts"][0])


def test_figures_that_are_no_numbers_are_refused(report: Report) -> None:
    broken = json.loads(report.to_json())
    broken["variants"][0]["metric"]["value"] = float("nan")
    with pytest.raises(ValidationError):
        Report.model_validate(broken)


def test_a_chosen_variant_must_exist(report: Report) -> None:
    with pytest.raises(ValidationError, match="k7"):
        Report.model_validate(report.model_dump() | {"chosen": "k7"})


@pytest.mark.parametrize(
    ("text", "code"), [(None, "report_missing"), ("{", "report_invalid"), ("{}", "report_invalid")]
)
def test_a_damaged_file_says_so(tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_report(path)
    assert caught.value.code == code


def test_another_version_is_refused(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UsageError, match="schema_version"):
        read_report(path)


def test_speed_ups_are_against_the_fastest_runtime(report: Report) -> None:
    assert report.original.fastest_runtime == "onnxruntime"
    chosen = report.chosen_variant
    assert chosen is not None
    assert chosen.best_speedup == pytest.approx(3.3)
