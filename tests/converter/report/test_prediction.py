"""Errors of predicted speed-ups and the order of predicted losses, in one line of the report."""

import io

import pytest
from rich.console import Console

from aslconvert.cli.views import show_report
from aslconvert.converter.report.html import render_html
from aslconvert.converter.report.prediction import prediction_of
from aslconvert.converter.report.schema import Report


def predicted(report: Report, errors: list[float], damages: list[float | None]) -> Report:
    variants = [
        variant.model_copy(update={"predicted_speedup": variant.best_speedup * (1 + error), "predicted_damage": damage})
        for variant, error, damage in zip(report.variants, errors, damages, strict=True)
    ]
    return report.model_copy(update={"variants": tuple(variants)})


def test_errors_and_order_are_what_they_are_defined_as(report: Report) -> None:
    # Two neighbours of seven are swapped: 1 - 6 * 2 / (7 * 48).
    found = prediction_of(
        predicted(report, [0.0, 0.02, -0.04, 0.06, 0.08, -0.1, 0.3], [0.1, 0.2, 0.3, 0.5, 0.4, 0.6, 0.7])
    )
    assert found.median_error == pytest.approx(0.06)
    assert found.worst_error == pytest.approx(0.3)
    assert (found.close, found.timed, found.ordered) == (6, 7, 7)
    assert found.order == pytest.approx(1 - 12 / 336)


def test_pruned_variants_have_no_place_in_the_order(report: Report) -> None:
    found = prediction_of(predicted(report, [0.0] * 7, [0.3, 0.2, 0.1, None, None, None, None]))
    assert (found.order, found.ordered) == (-1.0, 3)
    assert prediction_of(predicted(report, [0.0] * 7, [0.3, 0.2, *[None] * 5])).order is None
    assert prediction_of(predicted(report, [0.0] * 7, [0.3] * 7)).order is None


def test_page_and_command_print_the_line(report: Report) -> None:
    stream = io.StringIO()
    made = predicted(report, [0.05] * 7, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    line = prediction_of(made).sentence
    assert "Spearman 1.00 over 7 variants" in line
    assert "7 of 7 within 10%" in line
    show_report(made, Console(file=stream, width=160), folder=None)
    assert line in " ".join(stream.getvalue().split())
    assert line in render_html(made)


def test_a_report_without_predictions_has_no_such_line(report: Report) -> None:
    assert prediction_of(report).sentence == ""
    assert "Spearman" not in render_html(report)


def test_the_page_marks_what_the_spread_does_not_support(report: Report) -> None:
    first, *rest = report.variants
    doubtful = first.model_copy(update={"speedup_ci": {first.fastest_runtime: (0.97, 1.1)}})
    made = report.model_copy(update={"variants": (doubtful, *rest), "measurement_notes": ("It drifted.",)})
    page = render_html(made)
    assert "no difference that the spread supports" in page
    assert "0.97 to 1.1" in page
    assert "It drifted." in page
    assert "no difference that the spread supports" not in render_html(report)
