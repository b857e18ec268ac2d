"""The picture of a comparison: speed-up to the right, loss upwards, one panel a task, one colour a method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import altair as alt
import vl_convert

from peers.methods import METHODS

PALETTE = ("#d62728", "#ff9896", "#e377c2", "#7f7f7f", "#1f77b4", "#17becf", "#9467bd", "#2ca02c", "#98df8a", "#bcbd22")
SIZE = (420, 300)
COLUMNS = 2
LEAST_SPREAD = 1e-3


def picture(record: Mapping[str, Any]) -> str:
    """SVG of a record as ``__main__`` writes it; points are means over seeds.

    A collapsed variant would squeeze all others: what loses more than three times the median is drawn at the rim.
    """
    panels = []
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in record["rows"]:
        found.setdefault((row["task"], row["budget"]), []).append(row)
    for (task, budget), rows in found.items():
        panels.append(_panel(f"{task}, healed {budget} a variant", rows))
    chart = alt.concat(*panels, columns=COLUMNS).configure(
        background="white", font="sans-serif", view=alt.ViewConfig(stroke=None)
    )
    svg: str = vl_convert.vegalite_to_svg(chart.to_json())
    return svg


def _panel(title: str, rows: list[dict[str, Any]]) -> alt.LayerChart:
    points: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        points.setdefault((row["method"], row["point"]), []).append(row)
    values = [
        {
            "method": method,
            "point": point,
            "speedup": statistics.mean(row["speedup"] for row in part),
            "loss": statistics.mean(row["loss"] for row in part),
        }
        for (method, point), part in points.items()
    ]
    losses = [float(value["loss"]) for value in values]
    rim = max(3 * statistics.median(losses), min(losses) + LEAST_SPREAD)
    for value in values:
        value["outside"] = value["loss"] > rim
        value["loss"] = min(float(value["loss"]), rim)
    unit, metric = rows[0]["unit"], rows[0]["metric"]
    data = alt.Data(values=values)
    x = alt.X("speedup:Q", title="speed-up over the original in its fastest runtime", scale=alt.Scale(zero=False))
    y = alt.Y("loss:Q", title=f"{metric} lost" + (f" [{unit}]" if unit else ""), scale=alt.Scale(zero=False))
    colour = alt.Color(
        "method:N", title=None, scale=alt.Scale(domain=list(METHODS), range=list(PALETTE[: len(METHODS)]))
    )
    base = alt.Chart(data)
    marks = [
        alt.Chart(alt.Data(values=[{"loss": 0}])).mark_rule(color="#999999", strokeDash=[4, 4]).encode(y=y),
        base.mark_line(strokeWidth=1.5, opacity=0.6).encode(x=x, y=y, color=colour, order="speedup:Q"),
        base.mark_point(size=60, opacity=1, filled=True).encode(
            x=x,
            y=y,
            color=colour,
            shape=alt.Shape(
                "outside:N", legend=None, scale=alt.Scale(domain=[False, True], range=["circle", "triangle-up"])
            ),
        ),
    ]
    beyond = sum(bool(value["outside"]) for value in values)
    subtitle = [f"{beyond} at the rim (triangles) lose more"] if beyond else []
    return alt.layer(*marks).properties(
        width=SIZE[0], height=SIZE[1], title=alt.TitleParams(text=title, subtitle=subtitle)
    )
