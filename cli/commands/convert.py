"""`aslconvert convert`: the whole way from a model to its faster variants, their proof and their report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json
from aslconvert.converter.options import (
    DEFAULT_SEED,
    ConvertOptions,
    parse_allow,
    parse_amount,
    parse_artifacts,
    parse_crop,
    parse_duration,
)


def convert(
    model: options.Model,
    *,
    data: Annotated[str, typer.Option("--data", help=options.DATA_HELP, show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for artifacts and report.", show_default=False)],
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            min=0.0,
            help="Fastest variant that loses at most X of the metric (dB for psnr, a fraction for top1).",
            show_default=False,
        ),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(
            "--min-speedup",
            help="Best variant at least Y times faster than the original in its fastest runtime.",
            show_default=False,
        ),
    ] = None,
    max_params_mb: options.MaxParams = None,
    max_macs: options.MaxMacs = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="top1, psnr, mse, miou, agreement or file.py:function.",
            show_default="what the data allows",
        ),
    ] = None,
    budget: Annotated[str, typer.Option("--budget", metavar="10m", help="Time for healing and search.")] = "10m",
    device: Annotated[
        str, typer.Option("--device", help="Where variants are healed: cpu, cuda, or auto. Latency is the CPU's.")
    ] = "auto",
    keep: options.Keep = None,
    allow: Annotated[
        str | None,
        typer.Option(
            "--allow",
            metavar="NAME,..",
            help="Further variants: prune (channels cut from converted ones and from the original), int8 (the "
            "original and every variant in 8 bits).",
            show_default=False,
        ),
    ] = None,
    int16: options.Int16 = True,
    cache: options.Cache = True,
    heal_crop: Annotated[
        str | None,
        typer.Option(
            "--heal-crop",
            metavar="SIZE[/MULTIPLE]",
            help="Heal on random crops whose corners lie on multiples of MULTIPLE.",
            show_default=False,
        ),
    ] = None,
    size: options.Size = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    channels: options.Channels = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and stop; nothing is written.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run in DIR stopped.")] = False,
    seed: options.Seed = DEFAULT_SEED,
    threads: options.Threads = None,
    batch: options.Batch = None,
    artifacts: Annotated[
        str,
        typer.Option(
            "--artifacts",
            metavar="KIND,..",
            help="What to write: portable, fast, trainable, onnx, int8, weights, code, aoti; default (all but int8 and "
            "aoti) or all.",
        ),
    ] = "default",
    heal_steps: Annotated[
        int | None,
        typer.Option("--heal-steps", min=1, help="Heal by steps, not by time: repeatable.", show_default=False),
    ] = None,
    heal_batch: Annotated[
        int | None, typer.Option("--heal-batch", min=1, help="Samples of one step of healing.", show_default="8")
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option("--accumulate", metavar="M", min=1, help="Compute each step of healing in M pieces: less memory."),
    ] = 1,
    task_loss: Annotated[
        float,
        typer.Option(
            "--task-loss",
            metavar="W",
            min=0,
            max=1,
            help="Weight of the data's own labels or targets in healing, beside the original's answers.",
        ),
    ] = 0.0,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Repeat the plans, steps and choice of an earlier run's plan.json instead of measuring them.",
            show_default=False,
        ),
    ] = None,
    dump_passes: Annotated[
        Path | None,
        typer.Option(
            "--dump-passes", metavar="DIR", help="Write the graph before and after each pass.", show_default=False
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Convert MODEL: rewrite its convolutions, fit, heal and measure, and write the chosen variant to DIR."""
    chosen = ConvertOptions(
        max_drop=max_drop,
        min_speedup=min_speedup,
        max_params_mb=max_params_mb,
        max_macs=None if max_macs is None else parse_amount(max_macs),
        metric=metric,
        budget_seconds=parse_duration(budget),
        device=device,
        keep=tuple(keep or ()),
        allow=() if allow is None else parse_allow(allow),
        int16=int16,
        cache=cache,
        dry_run=dry_run,
        resume=resume,
        seed=seed,
        threads=threads,
        batch=batch,
        artifacts=parse_artifacts(artifacts),
        heal_steps=heal_steps,
        heal_batch=heal_batch,
        accumulate=accumulate,
        task_loss=task_loss,
        plan=plan,
        dump_passes=dump_passes,
        heal_crop=None if heal_crop is None else parse_crop(heal_crop),
        **options.preparation(size=size, scale=scale, mean=mean, std=std, channels=channels),
    )
    with answer_stream() as stream:
        from aslconvert.cli.progress import RichProgress
        from aslconvert.cli.views import show_report
        from aslconvert.converter.pipeline import convert as run

        with RichProgress() as progress:
            report = run(model, data=data, out=out, options=chosen, progress=progress)
        if json:
            write_json(report, stream)
        else:
            show_report(report, page(stream), folder=None if dry_run else out)
