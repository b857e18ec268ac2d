"""Readable page of a prediction: the points that a conversion could reach, and what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from aslconvert.converter.pipeline.predict import Forecast, PredictedPoint


def show_forecast(forecast: Forecast, console: Console) -> None:
    """The predicted frontier as a table, then what it rests on."""
    runtimes = ", ".join(f"{name} {value.p50_ms:.3f} ms" for name, value in forecast.latency.items())
    table = Table(title=f"predicted, before healing, {forecast.device.threads} threads", title_justify="left")
    table.add_column("")
    table.add_column("plan")
    for heading in ("speed-up", "outputs off by", "parameters", "MACs", "sites"):
        table.add_column(heading, justify="right")
    for point in (forecast.original, *forecast.points):
        table.add_row("*" if point.id == forecast.answer else "", *_cells(point, forecast.sites))
    console.print(table)
    console.print(f"the original: {runtimes}", markup=False)
    console.print(
        "speed-up: the original in its fastest runtime over a stand-in with the plan's rows; outputs off by: relative "
        "error (L2) that the sites' damages add up to, of which healing takes most away"
    )
    if not forecast.met:
        console.print("[bold red]no plan is predicted to reach what was asked[/]")
    elif forecast.answer is not None:
        console.print("* answers what was asked")
    for note in forecast.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"predicted in {forecast.seconds:.0f} s", markup=False)


def _cells(point: PredictedPoint, sites: int) -> tuple[str, ...]:
    error = "-" if point.relative_l2 is None else f"{point.relative_l2:.3g}"
    shifted = f"{point.converted} of {sites}"
    return point.id, f"{point.speedup:.2f}", error, f"{point.params:,}", f"{point.macs:,}", shifted
