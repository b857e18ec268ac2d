"""Draws the report's pictures as SVG whose colours the page's style sheet sets, for light and dark alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt
import vl_convert

from aslconvert.converter.report.labels import place
from aslconvert.converter.report.schema import Report, SiteRecord, Variant

# Stand-ins: the style sheet maps each of these to a theme colour by attribute selector.
INK, SOFT, GRID, ACCENT, MUTED, REFERENCE, CHOSEN = (
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606", "#070707",
)  # fmt: skip
_FRONTIER_SIZE = (720, 340)
MAX_SHIFT_PANELS = 24
_SHIFT_GRAIN = 0.05  # pixels; rows closer than this are drawn as one larger dot


@dataclass(frozen=True)
class Point:
    """A model in the frontier's plane; ``loss`` grows as the model gets worse."""

    id: str
    speedup: float
    speedup_ci: tuple[float, float]
    loss: float
    loss_ci: tuple[float, float]
    role: str  # chosen, frontier, dominated, original
    tip: str
    int8: bool = False


def frontier_points(report: Report) -> tuple[list[Point], str]:
    """The original and every variant as points, and the title of the loss axis."""
    fastest = report.original.latency[report.original.fastest_runtime].p50_ms
    title = _loss_title(report)
    points = [
        Point("original", 1.0, (1.0, 1.0), 0.0, (0.0, 0.0), "original", "original, in its fastest runtime"),
    ]
    for variant in report.variants:
        latency = variant.latency[variant.fastest_runtime]
        loss, loss_ci = _loss(report, variant)
        role = "chosen" if variant.id == report.chosen else "dominated" if variant.dominated else "frontier"
        points.append(
            Point(
                id=variant.id,
                speedup=variant.best_speedup,
                speedup_ci=(fastest / max(latency.ci[1], 1e-9), fastest / max(latency.ci[0], 1e-9)),
                loss=loss,
                loss_ci=loss_ci,
                role=role,
                tip=f"{variant.id}: {variant.best_speedup:.2f}x in {variant.fastest_runtime}, loss {loss:.3g} "
                f"[{loss_ci[0]:.3g}, {loss_ci[1]:.3g}]"
                + (", in 8 bits" if variant.precision == "int8" else "")
                + (", dominated" if variant.dominated else ""),
                int8=variant.precision == "int8",
            )
        )
    return points, title


def frontier_svg(report: Report) -> str:
    """Speed-up to the right, loss upwards, with 95 % intervals; dominated points grey, the chosen one ringed.

    Variants in 8 bits are diamonds.
    """
    points, title = frontier_points(report)
    width, height = _FRONTIER_SIZE
    x_range = _padded([v for p in points for v in (p.speedup, *p.speedup_ci)], 0.06, least=0.0)
    y_range = _padded([v for p in points for v in (p.loss, *p.loss_ci)], 0.10)
    x = alt.X(
        "x:Q",
        title="speed-up over the original in its fastest runtime",
        scale=_scale(x_range),
        axis=alt.Axis(labelExpr="datum.label + 'x'", tickCount=8),
    )
    y = alt.Y("y:Q", title=title, scale=_scale(y_range), axis=alt.Axis(tickCount=6))
    rows = [
        {"x": p.speedup, "x1": p.speedup_ci[0], "x2": p.speedup_ci[1], "y": p.loss, "y1": p.loss_ci[0],
         "y2": p.loss_ci[1], "role": p.role, "tip": p.tip, "bits": "8" if p.int8 else "other"}
        for p in points
    ]  # fmt: skip
    base = alt.Chart(_data(rows))
    front = sorted((p for p in points if p.role != "dominated"), key=lambda p: p.speedup)
    path = alt.Chart(_data([{"x": p.speedup, "y": p.loss} for p in front]))
    colour = alt.Color(
        "role:N",
        legend=None,
        scale=alt.Scale(
            domain=["chosen", "frontier", "dominated", "original"], range=[CHOSEN, ACCENT, MUTED, REFERENCE]
        ),
    )
    bars = base.transform_filter("datum.role != 'original'")
    marks = [
        alt.Chart(_data([{"y": 0}])).mark_rule(color=REFERENCE, strokeDash=[4, 4]).encode(y=y),
        path.mark_line(color=ACCENT, opacity=0.45, strokeWidth=1.5).encode(x=x, y=y),
        bars.mark_rule(strokeWidth=1.3, opacity=0.6).encode(x=x, y=alt.Y("y1:Q"), y2="y2:Q", color=colour),
        bars.mark_rule(strokeWidth=1.3, opacity=0.6).encode(x=alt.X("x1:Q"), x2="x2:Q", y=y, color=colour),
        base.transform_filter("datum.role == 'chosen'")
        .mark_point(size=260, strokeWidth=2, filled=False, color=CHOSEN)
        .encode(x=x, y=y),
        base.mark_point(filled=True, size=75, opacity=1).encode(
            x=x, y=y, color=colour, shape=_shape_of_bits(), description="tip:N"
        ),
        *_label_layers(points, x_range, y_range, x, y),
    ]
    return _svg(alt.layer(*marks).properties(width=width, height=height), name="frontier")


def _shape_of_bits() -> alt.Shape:
    scale = alt.Scale(domain=["8", "other"], range=["diamond", "circle"])
    return alt.Shape("bits:N", legend=None, scale=scale)


def runtimes_svg(report: Report) -> str:
    """Median latency of the original and the chosen variant in each runtime, with 95 % intervals."""
    series = [("original", report.original.latency)]
    if report.chosen_variant is not None:
        series.append((report.chosen_variant.id, report.chosen_variant.latency))
    rows = [
        {"who": who, "runtime": runtime, "ms": value.p50_ms, "low": value.ci[0], "high": value.ci[1],
         "tip": f"{who} in {runtime}: {value.p50_ms:.3g} ms [{value.ci[0]:.3g}, {value.ci[1]:.3g}]",
         "text": f"{value.p50_ms:.3g} ms"}
        for who, latency in series
        for runtime, value in latency.items()
    ]  # fmt: skip
    top = max(value.ci[1] for _, latency in series for value in latency.values())
    names = [who for who, _ in series]
    x = alt.X("ms:Q", title="milliseconds a call (median)", scale=_scale((0.0, top * 1.12)))
    y = alt.Y("runtime:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=10))
    offset = alt.YOffset("who:N", sort=names)
    colour = alt.Color("who:N", legend=None, scale=alt.Scale(domain=names, range=[REFERENCE, CHOSEN]))
    base = alt.Chart(_data(rows))
    chart = alt.layer(
        base.mark_bar(height=13, cornerRadiusEnd=3).encode(x=x, y=y, yOffset=offset, color=colour, description="tip:N"),
        base.mark_rule(color=INK, strokeWidth=1.2).encode(x="low:Q", x2="high:Q", y=y, yOffset=offset),
        base.mark_text(align="left", dx=6, color=INK, fontSize=11).encode(
            x=alt.X("high:Q"), y=y, yOffset=offset, text="text:N"
        ),
    )
    return _svg(chart.properties(width=620, height=alt.Step(20)), name="runtimes")


def shifts_svg(sites: Sequence[SiteRecord]) -> str:
    """Where the rows of each converted site look: one panel a site, dots sized by the rows that share a place."""
    shown = [site for site in sites if site.shifts][:MAX_SHIFT_PANELS]
    if not shown:
        return ""
    rows: list[dict[str, Any]] = []
    reach = 1.0
    titles = _short_names([site.name for site in shown])
    for site, title in zip(shown, titles, strict=True):
        places = Counter(_place(shift) for shift in site.shifts)
        for (dy, dx), count in sorted(places.items()):
            reach = max(reach, abs(dy), abs(dx))
            tip = f"{site.name}: {count} rows at dy {dy:+.2f}, dx {dx:+.2f}"
            rows.append({"site": title, "dy": dy, "dx": dx, "rows": count, "tip": tip})
    domain = (-reach - 0.35, reach + 0.35)
    ticks = [float(t) for t in range(-int(reach), int(reach) + 1)]
    axis = alt.Axis(values=ticks, format="d", grid=True, domain=False, ticks=False)
    chart = (
        alt.Chart(_data(rows))
        .mark_circle(color=ACCENT, opacity=0.55)
        .encode(
            x=alt.X("dx:Q", title=None, axis=axis, scale=_scale(domain)),
            y=alt.Y("dy:Q", title=None, axis=axis, scale=alt.Scale(domain=[domain[1], domain[0]], nice=False)),
            size=alt.Size("rows:Q", legend=None, scale=alt.Scale(range=[10, 150])),
            description="tip:N",
            facet=alt.Facet("site:N", columns=6, sort=titles, title=None),
        )
        .properties(width=104, height=104)
    )
    return _svg(chart, name="shifts")


def metric_label(name: str) -> str:
    """How a metric is written for people."""
    return {"psnr": "PSNR", "mse": "MSE", "top1": "top-1", "miou": "mIoU"}.get(name, name)


def _loss(report: Report, variant: Variant) -> tuple[float, tuple[float, float]]:
    if variant.loss is not None:
        return variant.loss.value, variant.loss.ci
    original, metric = report.original.metric, variant.metric
    if original is not None and metric is not None:
        sign = 1.0 if metric.higher_is_better else -1.0
        low, high = sorted(sign * (original.value - end) for end in metric.ci)
        return sign * (original.value - metric.value), (low, high)
    return variant.agreement.relative_l2, variant.agreement.ci


def _loss_title(report: Report) -> str:
    metric = report.original.metric
    if metric is None:
        return "relative difference to the original's outputs"
    return f"{metric_label(metric.name)} lost" + (f" [{metric.unit}]" if metric.unit else "")


def _label_layers(
    points: Sequence[Point], x_range: tuple[float, float], y_range: tuple[float, float], x: alt.X, y: alt.Y
) -> list[alt.Chart]:
    width, height = _FRONTIER_SIZE
    order = sorted(points, key=lambda p: ("chosen", "original", "frontier", "dominated").index(p.role))

    def pixel(speedup: float, loss: float) -> tuple[float, float]:
        across = (speedup - x_range[0]) / (x_range[1] - x_range[0])
        down = (y_range[1] - loss) / (y_range[1] - y_range[0])
        return across * width, down * height

    front = sorted((p for p in points if p.role != "dominated"), key=lambda p: p.speedup)
    lines = [(pixel(a.speedup, a.loss), pixel(b.speedup, b.loss)) for a, b in pairwise(front)]
    lines += [(pixel(p.speedup, p.loss_ci[0]), pixel(p.speedup, p.loss_ci[1])) for p in points]
    lines += [(pixel(p.speedup_ci[0], p.loss), pixel(p.speedup_ci[1], p.loss)) for p in points]
    lines.append((pixel(x_range[0], 0.0), pixel(x_range[1], 0.0)))
    labelled = [p.id for p in order if p.role != "dominated"]
    placed = place(labelled, [pixel(p.speedup, p.loss) for p in order], width=width, height=height, lines=lines)
    layers = []
    for align in ("left", "right"):
        rows = [
            {"x": x_range[0] + label.x / width * (x_range[1] - x_range[0]),
             "y": y_range[1] - label.y / height * (y_range[1] - y_range[0]), "text": label.text}
            for label in placed if label.align == align
        ]  # fmt: skip
        if rows:
            mark = alt.Chart(_data(rows)).mark_text(align=align, baseline="middle", color=INK, fontSize=11.5)
            layers.append(mark.encode(x=x, y=y, text="text:N"))
    return layers


def _data(rows: list[dict[str, Any]]) -> alt.Data:
    return alt.Data(values=rows)  # type: ignore[no-untyped-call]  # altair annotates its schema classes, not this call


def _padded(values: Sequence[float], share: float, *, least: float | None = None) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = share * (high - low) or 0.1
    return (low - room if least is None else max(least, low - room)), high + room


def _scale(domain: tuple[float, float]) -> alt.Scale:
    return alt.Scale(domain=list(domain), nice=False, zero=False)


def _place(shift: Sequence[float]) -> tuple[float, float]:
    # The last two axes are the picture's; a signal's only axis is drawn across.
    dy, dx = (0.0, *shift)[-2:]
    return round(round(dy / _SHIFT_GRAIN) * _SHIFT_GRAIN, 2) + 0.0, round(
        round(dx / _SHIFT_GRAIN) * _SHIFT_GRAIN, 2
    ) + 0.0


def _short_names(names: Sequence[str]) -> list[str]:
    """The names without the modules that all share, cut from the left to fit a panel, no two alike."""
    parts = [name.split(".") for name in names]
    while len(names) > 1 and all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    short = [".".join(p) for p in parts]
    short = [name if len(name) <= 16 else "…" + name[-15:] for name in short]
    if len(set(short)) < len(short):
        short = [f"{number}: {name[-12:]}" for number, name in enumerate(short, start=1)]
    return short


def _svg(chart: alt.Chart | alt.LayerChart | alt.FacetChart, *, name: str) -> str:
    styled = chart.configure(
        background="transparent",
        # The page's font may be wider than the one that the layout was measured with.
        padding={"left": 28, "top": 6, "right": 12, "bottom": 6},
        font="sans-serif",
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=SOFT, titleColor=SOFT, gridColor=GRID, domainColor=GRID, tickColor=GRID, labelFontSize=11,
            titleFontSize=12, titleFontWeight="normal", titlePadding=10, labelPadding=6,
        ),
        header=alt.HeaderConfig(labelColor=SOFT, labelFontSize=11, labelPadding=4),
    )  # fmt: skip
    svg = vl_convert.vegalite_to_svg(styled.to_json())
    # Several pictures share one page: their clip paths must not share names.
    return re.sub(r"\bclip(\d+)", rf"{name}-clip\1", svg)
