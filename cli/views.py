"""Readable pages of the commands' answers: tables for people, the same figures as in the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from aslconvert.cli.diagnosis import Diagnosis
    from aslconvert.converter.cost.bench import BenchReport
    from aslconvert.converter.inspection import InspectReport
    from aslconvert.converter.report.schema import MetricValue, Report


def show_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Versions, kernels, device and runtimes, and last, so that it is seen, what is missing."""
    console.print("versions", style="bold")
    versions = {"python": diagnosis.python, **diagnosis.versions}
    console.print("  " + "  ".join(f"{name} {version or '-'}" for name, version in versions.items()), soft_wrap=True)
    console.print("kernels", style="bold")
    console.print("  native: yes" if diagnosis.native else "  [bold red]native: NO, the slow Python reference runs[/]")
    for name, value in diagnosis.kernels.items():
        console.print(f"  {name}: {value}", markup=False)
    device = diagnosis.device
    console.print("device", style="bold")
    console.print(
        f"  {device.cpu}, {device.cores} cores, {device.memory_gib} GiB\n"
        f"  {' '.join(device.isa)} (torch uses {device.torch_isa})",
        markup=False,
    )
    cuda = diagnosis.cuda
    held = diagnosis.sandbox
    means = ", ".join(
        f"{what} by {held[what]}" for what in ("files", "network", "calls", "processes") if held.get(what)
    )
    console.print(f"  sandbox of workers: {means or 'none'}", markup=False)
    console.print(f"  CUDA: {cuda['devices'] if cuda['available'] else 'not available'}", markup=False)
    console.print("runtimes", style="bold")
    for name, reason in diagnosis.runtimes.items():
        console.print(f"  {name}: {'yes' if reason is None else reason}", markup=False)
    for gap in diagnosis.missing:
        console.print(f"[bold red]MISSING: {escape(gap.what)}.[/] {escape(gap.cost)}\n  {escape(gap.how)}")
    if not diagnosis.missing:
        console.print("nothing is missing", style="green")


def show_bench(report: BenchReport, console: Console) -> None:
    """Latency of every file in every runtime, and why a row has none."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in report.shapes)
    table = Table(title=f"milliseconds a call, inputs {shapes}, {report.device.threads} threads", title_justify="left")
    for heading in ("file", "runtime"):
        table.add_column(heading)
    for heading in ("median", "95 % interval", "p95"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        if row.latency is None:
            table.add_row(escape(row.file), row.runtime, escape(row.unavailable or "-"), "", "")
        else:
            figures = row.latency
            interval = f"{figures.ci_low:.3f} .. {figures.ci_high:.3f}"
            table.add_row(escape(row.file), row.runtime, f"{figures.p50_ms:.3f}", interval, f"{figures.p95_ms:.3f}")
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)


def show_inspection(report: InspectReport, console: Console) -> None:
    """Every convolution with what would become of it and why, and what the model would see of the data."""
    title = f"{report.model}: {', '.join(report.inputs)}"
    table = Table(title=escape(title), title_justify="left")
    for heading in ("site", "kind", "channels", "action", "reason"):
        table.add_column(heading)
    table.add_column("million MACs", justify="right")
    for site in report.sites:
        channels = "" if site.in_channels is None else f"{site.in_channels} -> {site.out_channels}"
        kind = f"{site.kind} {'x'.join(map(str, site.kernel))}".rstrip()
        why = f"{site.reason}: {site.message}" if site.reason else ""
        work = "" if site.macs is None else f"{site.macs / 1e6:.2f}"
        table.add_row(escape(site.name), kind, channels, site.action, escape(why), work)
    console.print(table)
    converted = sum(site.action == "asl" for site in report.sites)
    console.print(
        f"{converted} of {len(report.sites)} convolutions would be converted; with one row a channel their "
        f"multiply-adds fall {report.predicted_gain:.1f}-fold (only `--predict` and `convert` measure time)"
    )
    data = report.data
    if data is not None:
        console.print(f"data: {data.source}, {data.preprocessing}", markup=False)
        console.print("  " + ", ".join(f"{name} {count}" for name, count in data.samples.items()) + " samples")
        for shape, (low, high) in zip(data.shapes, data.ranges, strict=True):
            console.print(f"  the model sees {'x'.join(map(str, shape))}, values {low:.4g} .. {high:.4g}")
    for note in (*report.notes, *(data.notes if data is not None else ())):
        console.print(f"note: {note}", markup=False)


def show_verification(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Every artifact, how far it is from the stored outputs and how far it may be."""
    table = Table(title="reloaded in a fresh process", title_justify="left")
    for heading in ("artifact", "kind"):
        table.add_column(heading)
    for heading in ("greatest difference", "allowed"):
        table.add_column(heading, justify="right")
    for result in results:
        far = f"{result['max_abs_diff']:.3g}"
        table.add_row(escape(result["path"]), result["kind"], far, f"{result['tolerance']:.3g}")
    console.print(table)
    for result in results:
        where = ", ".join(f"{name} {value:.2g}" for name, value in result["checks"].items())
        for text in filter(None, (where, *result["notes"])):
            console.print(f"  {result['path']}: {text}", markup=False)


def show_report(report: Report, console: Console, *, folder: Path | None) -> None:
    """The frontier: every variant with its metric, its speed-up and its size, the chosen one marked."""
    from aslconvert.converter.report.prediction import prediction_of

    original = report.original
    runtime = original.fastest_runtime
    table = Table(title=f"{report.model.name} on {report.device.cpu}, {report.device.threads} threads")
    for heading in ("", "variant"):
        table.add_column(heading)
    for heading in ("metric", "loss", "relative L2", "fastest runtime", "ms", "speed-up", "parameters", "MACs"):
        table.add_column(heading, justify="right")
    fastest = f"{original.latency[runtime].p50_ms:.3f}"
    table.add_row("", "original", _metric(original.metric), "", "", runtime, fastest, "1.00", *_sizes(original))
    for variant in report.variants:
        best = variant.fastest_runtime
        mark = "*" if variant.id == report.chosen else ("dominated" if variant.dominated else "")
        table.add_row(
            mark,
            escape(variant.id),
            _metric(variant.metric),
            "" if variant.loss is None else f"{variant.loss.value:+.3f}",
            f"{variant.agreement.relative_l2:.4f}",
            best,
            f"{variant.latency[best].p50_ms:.3f}",
            f"{variant.best_speedup:.2f}",
            *_sizes(variant),
        )
    console.print(table)
    console.print("speed-up: the original in its fastest runtime over the variant in its own; * chosen")
    for variant in report.variants:
        cut = variant.pruning
        if cut is not None:
            console.print(f"  {variant.id}: {cut.summary}", markup=False)
        if variant.quantisation is not None:
            console.print(f"  {variant.id}: {variant.quantisation.summary}", markup=False)
    for variant in report.variants:
        if variant.doubts and variant.doubts != ("dominated",):
            console.print(f"  {variant.id}: {', '.join(variant.doubts)}", markup=False)
    if predicted := prediction_of(report).sentence:
        console.print(predicted, markup=False)
    for note in report.measurement_notes:
        console.print(f"note: {note}", markup=False)
    for name, reason in report.variants_left_out.items():
        console.print(f"  [bold red]left out: {escape(name)}.[/] {escape(reason)}")
    if folder is not None:
        for artifact in report.artifacts:
            console.print(f"  {folder / artifact.path}", markup=False)
            if artifact.agreement is not None:
                distance = f"relative L2 distance to the original {artifact.agreement.relative_l2:.4f}"
                console.print(f"    on the test split: {_metric(artifact.metric)}, {distance}", markup=False)
        for kind, reason in report.artifacts_left_out.items():
            console.print(f"  [bold red]left out: {kind}.[/] {escape(reason)}")
        console.print(f"  {folder / 'report.html'}", markup=False)


def _metric(metric: MetricValue | None) -> str:
    if metric is None:
        return "-"
    low, high = metric.ci
    return f"{metric.name} {metric.value:.3f} ({low:.3f} .. {high:.3f}) {metric.unit}".rstrip()


def _sizes(of: object) -> tuple[str, str]:
    return f"{getattr(of, 'params', 0):,}", f"{getattr(of, 'macs', 0):,}"
