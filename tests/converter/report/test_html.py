from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from aslconvert.converter.report.charts import frontier_points, frontier_svg, shifts_svg
from aslconvert.converter.report.html import render_html
from aslconvert.converter.report.labels import place
from aslconvert.converter.report.schema import Report

_RESOURCE_ATTRIBUTES = {"src", "href", "xlink:href", "data", "poster", "action", "srcset"}


class _Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.resources: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.svgs = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.svgs += tag == "svg"
        self.resources += [(tag, value or "") for key, value in attrs if key in _RESOURCE_ATTRIBUTES]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _collect(page: str) -> _Collector:
    collector = _Collector()
    collector.feed(page)
    return collector


def test_the_page_is_whole_and_refers_to_nothing_outside_itself(report: Report) -> None:
    page = render_html(report)
    seen = _collect(page)
    assert seen.svgs == 3
    assert [resource for resource in seen.resources if not resource[1].startswith("#")] == []
    assert "@import" not in page
    assert "default-src 'none'" in page
    # What remains of URLs are the names of XML vocabularies, which nothing loads.
    assert set(re.findall(r"https?://[^\s\"'<>)]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "url(" not in page.replace("url(#", "")


def test_every_variant_site_runtime_and_artifact_is_named(report: Report) -> None:
    text = " ".join(_collect(render_html(report)).text)
    for name in (
        *(v.id for v in report.variants),
        *(s.name for s in report.sites),
        *report.original.latency,
        *(a.sha256 for a in report.artifacts),
        report.device.cpu,
        "openvino could not be used: not installed",
    ):
        assert name in text


def test_names_are_escaped(report: Report) -> None:
    hostile = report.model.model_copy(update={"name": "<script>alert(1)</script>"})
    page = render_html(report.model_copy(update={"model": hostile}))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_frontier_marks_the_chosen_the_dominated_and_the_original(report: Report) -> None:
    points, title = frontier_points(report)
    roles = {point.id: point.role for point in points}
    assert title == "PSNR lost [dB]"
    assert roles["original"] == "original"
    assert roles["k96"] == "chosen"
    assert {name for name, role in roles.items() if role == "dominated"} == {"k96-late", "k64-uniform"}
    svg = frontier_svg(report)
    assert all(f"{variant.id}: " in svg for variant in report.variants)


def test_a_report_without_metric_choice_or_variants_renders(report: Report) -> None:
    bare = report.model_copy(
        update={
            "original": report.original.model_copy(update={"metric": None}),
            "variants": tuple(v.model_copy(update={"metric": None, "loss": None}) for v in report.variants),
            "chosen": None,
        }
    )
    assert "relative difference" in render_html(bare)
    assert "none chosen" in render_html(bare.model_copy(update={"variants": ()}))


def test_signals_and_volumes_have_a_shift_picture_too(report: Report) -> None:
    site = report.sites[-1]
    for dims in (1, 3):
        assert "<svg" in shifts_svg([site.model_copy(update={"shifts": ((0.5,) * dims, (-1.0,) * dims)})])
    assert shifts_svg([site.model_copy(update={"shifts": ()})]) == ""


@pytest.mark.parametrize("count", [1, 8, 40])
def test_labels_never_meet(count: int) -> None:
    points = [(100.0 + 3 * i, 100.0 + 2 * i) for i in range(count)]
    labels = place([f"variant-{i}" for i in range(count)], points, width=700, height=300)
    assert labels
    assert labels[0].text == "variant-0"
    for i, a in enumerate(labels):
        for b in labels[i + 1 :]:
            apart = abs(a.y - b.y) >= 14
            a_left = a.x if a.align == "left" else a.x - 6.6 * len(a.text)
            b_left = b.x if b.align == "left" else b.x - 6.6 * len(b.text)
            assert apart or a_left + 6.6 * len(a.text) <= b_left or b_left + 6.6 * len(b.text) <= a_left
