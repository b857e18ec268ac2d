"""The report to hand on: one zip of the page, the record, its tables and its pictures, without weights."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from aslconvert.converter.report.charts import frontier_svg, runtimes_svg
from aslconvert.converter.report.schema import Report

PAGE_STYLE = Path(__file__).parent / "page.css"

MOMENT = (1980, 1, 1, 0, 0, 0)
"""The zip format's first moment: the same report gives the same file."""


def bundle_bytes(report: Report, page: str, plan: bytes) -> bytes:
    """The zip file: report.html (``page``), report.json, plan.json, variants.csv, sites.csv and the charts as SVG."""
    files = {
        "report.html": page.encode(),
        "report.json": report.to_json().encode(),
        "plan.json": plan,
        "variants.csv": _csv(_variants(report)),
        "sites.csv": _csv(_sites(report)),
        "frontier.svg": _alone(frontier_svg(report)),
        "runtimes.svg": _alone(runtimes_svg(report)),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, MOMENT)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _alone(svg: str) -> bytes:
    """The picture with the page's light colours in place of the marks that its style sheet maps."""
    sheet = PAGE_STYLE.read_text(encoding="utf-8")
    light = dict(re.findall(r"--(\w+): (#\w+);", sheet.partition("@media")[0]))
    for mark, name in re.findall(r'\[fill="(#\w+)"\] \{ fill: var\(--(\w+)\)', sheet):
        svg = svg.replace(f'"{mark}"', f'"{light[name]}"')
    return svg.encode()


def _variants(report: Report) -> Iterable[list[object]]:
    yield [
        "id",
        "metric",
        "value",
        "loss",
        "relative_l2",
        "runtime",
        "p50_ms",
        "speedup",
        "params",
        "macs",
        "dominated",
        "pruned",
        "precision",
    ]
    first = report.original
    best = first.latency[first.fastest_runtime].p50_ms
    metric = first.metric
    yield ["original", metric and metric.name, metric and metric.value, 0, 0, first.fastest_runtime, best, 1,
           first.params, first.macs, False, "", "float32"]  # fmt: skip
    for variant in report.variants:
        metric, runtime = variant.metric, variant.fastest_runtime
        yield [variant.id, metric and metric.name, metric and metric.value, variant.loss and variant.loss.value,
               variant.agreement.relative_l2, runtime, variant.latency[runtime].p50_ms, variant.best_speedup,
               variant.params, variant.macs, variant.dominated,
               variant.pruning and variant.pruning.share, variant.precision]  # fmt: skip


def _sites(report: Report) -> Iterable[list[object]]:
    yield ["name", "kind", "action", "reason", "rows", "fit_error", "latency_before_ms", "latency_after_ms"]
    for site in report.sites:
        yield [site.name, site.kind, site.action, site.reason, site.rows, site.fit_error, site.latency_before_ms,
               site.latency_after_ms]  # fmt: skip


def _csv(rows: Iterable[list[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        # A name that starts with = would be a formula to a spreadsheet.
        writer.writerow(
            [f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell for cell in row]
        )
    return text.getvalue().encode()
