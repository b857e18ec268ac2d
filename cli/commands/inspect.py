"""`aslconvert inspect`: what would be converted and what kept, and why; nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, plain, write_json
from aslconvert.converter.errors import TargetNotReached, UsageError
from aslconvert.converter.options import DEFAULT_SEED, ConvertOptions, parse_amount

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from aslconvert.converter.pipeline.predict import Forecast


def inspect(
    model: options.Model,
    *,
    data: Annotated[str | None, typer.Option("--data", help=options.DATA_HELP, show_default=False)] = None,
    keep: options.Keep = None,
    size: options.Size = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    channels: options.Channels = None,
    predict: Annotated[
        bool, typer.Option("--predict", help="Measure, plan and tell what convert would give; nothing is healed.")
    ] = False,
    min_speedup: Annotated[
        float | None,
        typer.Option("--min-speedup", help="With --predict: what it takes to be Y times as fast.", show_default=False),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            min=0.0,
            help="With --predict: the fastest whose outputs are off by at most X, relative, before healing.",
            show_default=False,
        ),
    ] = None,
    max_params_mb: options.MaxParams = None,
    max_macs: options.MaxMacs = None,
    int16: options.Int16 = True,
    cache: options.Cache = True,
    seed: options.Seed = DEFAULT_SEED,
    threads: options.Threads = None,
    batch: options.Batch = None,
    json: options.Json = False,
) -> None:
    """Show what of MODEL would be converted, what kept and why; with --data also what the model would see.

    --predict measures on this machine and tells what speed-ups and losses to expect; converting takes far longer.
    """
    prepared = options.preparation(size=size, scale=scale, mean=mean, std=std, channels=channels)
    asked = (min_speedup, max_drop, max_params_mb, max_macs, threads, batch)
    if not predict and any(value is not None for value in asked):
        raise UsageError(
            "needs_predict", "Speed, loss and limits are asked of a prediction.", hint="Add --predict, or use convert."
        )
    with answer_stream() as stream:
        from aslconvert.cli.views import show_inspection
        from aslconvert.converter import inspection
        from aslconvert.converter.importers.model import open_model

        chosen = ConvertOptions(
            keep=tuple(keep or ()),
            min_speedup=min_speedup,
            max_drop=max_drop,
            max_params_mb=max_params_mb,
            max_macs=None if max_macs is None else parse_amount(max_macs),
            int16=int16,
            cache=cache,
            seed=seed,
            threads=threads,
            batch=batch,
            **prepared,
        )
        program = open_model(model)
        report = inspection.inspect(model, data=data, options=chosen, program=program)
        forecast = _forecast(model, data, chosen, program) if predict else None
        if json:
            found = plain(report)
            write_json(found if forecast is None else {**found, "prediction": forecast}, stream)
        else:
            console = page(stream)
            show_inspection(report, console)
            if forecast is not None:
                from aslconvert.cli.forecast import show_forecast

                show_forecast(forecast, console)
    if forecast is not None and not forecast.met:
        # The answer stands above; the code says that it is no.
        raise typer.Exit(TargetNotReached.exit_code)


def _forecast(model: str, data: str | None, chosen: ConvertOptions, program: ExportedProgram) -> Forecast:
    from aslconvert.cli.progress import RichProgress
    from aslconvert.converter.pipeline.predict import predict

    with RichProgress() as progress:
        return predict(model, data=data, options=chosen, program=program, progress=progress)
