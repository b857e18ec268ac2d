"""Renders report.html: one file that works offline and alone, in light and dark."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from aslconvert.converter.report.charts import (
    MAX_SHIFT_PANELS,
    frontier_points,
    frontier_svg,
    metric_label,
    runtimes_svg,
    shifts_svg,
)
from aslconvert.converter.report.prediction import prediction_of
from aslconvert.converter.report.schema import LatencyValue, MetricValue, Report, Variant

_HERE = Path(__file__).parent
_NONE = "–"  # noqa: RUF001  (an en dash marks an empty cell)


def render_html(report: Report) -> str:
    """The whole page as text; it refers to nothing outside itself."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=_figure, ms=_milliseconds, bytes=_bytes)
    converted = sum(bool(site.shifts) for site in report.sites)
    return environment.get_template("page.html.j2").render(
        report=report,
        chosen=report.chosen_variant,
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        tiles=_tiles(report),
        frontier=frontier_svg(report),
        runtimes=runtimes_svg(report),
        shifts=shifts_svg(report.sites),
        hidden_panels=max(0, converted - MAX_SHIFT_PANELS),
        loss_paired=any(variant.loss is not None for variant in report.variants),
        metric_title=_metric_title(report.original.metric),
        variants=_variant_rows(report),
        prediction=prediction_of(report).sentence,
        latencies=_latency_rows(report),
        device=_device(report),
        run=_run(report),
    )


def _tiles(report: Report) -> list[dict[str, str]]:
    chosen = report.chosen_variant
    if chosen is None:
        return [{"label": "Result", "value": "none chosen", "note": "no variant reached what was asked"}]
    before = report.original.latency[report.original.fastest_runtime]
    after = chosen.latency[chosen.fastest_runtime]
    points, _ = frontier_points(report)
    loss = next(point for point in points if point.id == chosen.id)
    metric = report.original.metric
    unit = f" {metric.unit}" if metric is not None and metric.unit else ""
    tiles = [
        {
            "label": "Speed-up",
            "value": f"{chosen.best_speedup:.2f}x",
            "note": f"{before.p50_ms:.3g} to {after.p50_ms:.3g} ms in {chosen.fastest_runtime}",
        },
        {
            "label": "Loss" if metric is None else f"{metric_label(metric.name)} lost",
            "value": f"{loss.loss:.3g}{unit}",
            "note": f"95 %: {loss.loss_ci[0]:.3g} to {loss.loss_ci[1]:.3g}",
        },
    ]
    if metric is not None and chosen.metric is not None:
        values = f"{_metric_value(metric)} to {_metric_value(chosen.metric)}{unit}"
        tiles[1]["note"] = f"{values}, 95 %: {loss.loss_ci[0]:.3g} to {loss.loss_ci[1]:.3g}"
    tiles.append(_reduction("Multiply-adds", report.original.macs, chosen.macs))
    tiles.append(_reduction("Parameters", report.original.params, chosen.params))
    return tiles


def _reduction(label: str, before: int, after: int) -> dict[str, str]:
    value = f"{before / after:.1f}x fewer" if after and before >= after else f"{after / max(1, before):.1f}x more"
    return {"label": label, "value": value, "note": f"{_count(before)} to {_count(after)}"}


def _variant_rows(report: Report) -> list[dict[str, str]]:
    original = report.original
    best = original.latency[original.fastest_runtime]
    rows = [
        {
            "id": "original", "kind": "", "note": "", "bits": "", **_metric_cells(original.metric), "loss": _NONE,
            "loss_ci": "",
            "agreement": _NONE, "same_class": "", "speedup": "1.00x", "speedup_ci": "",
            "latency": _milliseconds(best.p50_ms), "runtime": original.fastest_runtime,
            "params": _count(original.params), "macs": _count(original.macs), "sites": _NONE,
        }
    ]  # fmt: skip
    rows += [_variant_row(report, v) for v in sorted(report.variants, key=lambda v: v.best_speedup)]
    return rows


def _variant_row(report: Report, variant: Variant) -> dict[str, str]:
    same = variant.agreement.top1
    interval = variant.speedup_ci.get(variant.fastest_runtime)
    shifted = sum(choice.action == "asl" for choice in variant.plan.values())
    return {
        "id": variant.id,
        "kind": "chosen" if variant.id == report.chosen else "dominated" if variant.dominated else "",
        "note": ", ".join(filter(None, _notes(variant))),
        "bits": "8 bits" if variant.precision == "int8" else "",
        **_metric_cells(variant.metric),
        "loss": _NONE if variant.loss is None else f"{variant.loss.value:.3g}",
        "loss_ci": "" if variant.loss is None else _interval(variant.loss.ci),
        "agreement": f"{variant.agreement.relative_l2:.3g}",
        "same_class": "" if same is None else f"{same:.1%} same class",
        "speedup": f"{variant.best_speedup:.2f}x",
        "speedup_ci": "" if interval is None else _interval(interval),
        "latency": _milliseconds(variant.latency[variant.fastest_runtime].p50_ms),
        "runtime": variant.fastest_runtime,
        "params": _count(variant.params),
        "macs": _count(variant.macs),
        "sites": f"{shifted} of {len(variant.plan)}",
    }


def _notes(variant: Variant) -> tuple[str, ...]:
    error = variant.prediction_error
    predicted = "" if error is None else f"predicted {variant.predicted_speedup:.2f}x, {abs(error):.0%} off"
    rounded = {"int16": "scored in 16-bit integers", "int8": "scored in 8 bits"}.get(variant.precision, "")
    return variant.note, predicted, rounded, _bits(variant), _cut(variant), *variant.doubts


def _bits(variant: Variant) -> str:
    return "" if variant.quantisation is None else variant.quantisation.summary


def _cut(variant: Variant) -> str:
    return "" if variant.pruning is None else variant.pruning.summary


def _latency_rows(report: Report) -> list[dict[str, str]]:
    best = report.original.latency[report.original.fastest_runtime].p50_ms
    models = [("original", report.original.latency, "")]
    models += [(v.id, v.latency, "chosen" if v.id == report.chosen else "") for v in report.variants]
    return [
        _latency_row(name, kind, runtime, value, best) for name, all_, kind in models for runtime, value in all_.items()
    ]


def _latency_row(name: str, kind: str, runtime: str, value: LatencyValue, best: float) -> dict[str, str]:
    return {
        "id": name,
        "kind": kind,
        "runtime": runtime,
        "p50": f"{value.p50_ms:.3g}",
        "ci": _interval(value.ci),
        "p95": f"{value.p95_ms:.3g}",
        "speedup": f"{best / max(value.p50_ms, 1e-9):.2f}x",
    }


def _device(report: Report) -> list[tuple[str, str]]:
    device = report.device
    return [
        ("processor", device.cpu),
        ("instruction sets", ", ".join(device.isa) or _NONE),
        ("torch uses", device.torch_isa),
        ("cores, threads", f"{device.cores}, {device.threads}"),
        ("inputs timed", ", ".join("x".join(map(str, shape)) for shape in report.latency_inputs) or _NONE),
        ("memory", f"{device.memory_gib:g} GiB"),
        ("system", device.system),
        ("own kernels", "native" if device.kernels_native else "reference only (slow)"),
        *((name, version) for name, version in device.versions.items()),
    ]


def _run(report: Report) -> list[tuple[str, str]]:
    facts = [
        ("inputs", "; ".join(f"{i.name} {_shape(i.shape)} {i.dtype}" for i in report.model.inputs) or _NONE),
        ("model SHA-256", report.model.sha256 or _NONE),
        *(("note", note) for note in report.model.notes),
    ]
    if report.data is not None:
        data = report.data
        facts.append(("data", data.source))
        facts.append(("preparation", data.preprocessing))
        facts += [
            (name, f"{count} samples of {data.groups.get(name, 0)} groups") for name, count in data.samples.items()
        ]
        facts += [("note", note) for note in data.notes]
    facts.append(("seeds", ", ".join(f"{name} {seed}" for name, seed in report.seeds.items()) or _NONE))
    facts.append(("versions", ", ".join(f"{name} {value}" for name, value in report.versions.items()) or _NONE))
    facts += [(f"time: {stage}", f"{seconds:.1f} s") for stage, seconds in report.timings.items()]
    return facts


def _metric_title(metric: MetricValue | None) -> str:
    if metric is None:
        return "metric"
    name = metric_label(metric.name)
    return f"{name} [{metric.unit}]" if metric.unit else name


def _metric_value(metric: MetricValue) -> str:
    return f"{metric.value:.2f}" if abs(metric.value) >= 10 else f"{metric.value:.4g}"


def _metric_cells(metric: MetricValue | None) -> dict[str, str]:
    if metric is None:
        return {"metric": _NONE, "metric_ci": ""}
    return {"metric": _metric_value(metric), "metric_ci": _interval(metric.ci)}


def _interval(ci: tuple[float, float]) -> str:
    return f"{ci[0]:.3g} to {ci[1]:.3g}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} ms"


def _count(value: int) -> str:
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return str(value)


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.2f} MB"


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"
