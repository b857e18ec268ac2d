"""`aslconvert convert`: the whole way from a model to its faster variants, their proof and their report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslconvert.cli import conversion, options
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
    max_drop: conversion.MaxDrop = None,
    min_speedup: conversion.MinSpeedup = None,
    max_params_mb: options.MaxParams = None,
    max_macs: options.MaxMacs = None,
    metric: conversion.Metric = None,
    budget: conversion.Budget = "10m",
    device: conversion.Device = "auto",
    keep: options.Keep = None,
    allow: conversion.Allow = None,
    int16: options.Int16 = True,
    cache: options.Cache = True,
    heal_crop: conversion.HealCrop = None,
    size: options.Size = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    channels: options.Channels = None,
    dry_run: conversion.DryRun = False,
    resume: conversion.Resume = False,
    seed: options.Seed = DEFAULT_SEED,
    threads: options.Threads = None,
    batch: options.Batch = None,
    artifacts: conversion.Artifacts = "default",
    heal_steps: conversion.HealSteps = None,
    heal_batch: conversion.HealBatch = None,
    accumulate: conversion.Accumulate = 1,
    processes: conversion.Processes = 1,
    task_loss: conversion.TaskLoss = 0.0,
    plan: conversion.Plan = None,
    dump_passes: conversion.DumpPasses = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="Convert there; DIR gets the same files.", show_default=False),
    ] = None,
    key_file: options.KeyFile = None,
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
        processes=processes,
        task_loss=task_loss,
        plan=plan,
        dump_passes=dump_passes,
        heal_crop=None if heal_crop is None else parse_crop(heal_crop),
        **options.preparation(size=size, scale=scale, mean=mean, std=std, channels=channels),
    )
    with answer_stream() as stream:
        from aslconvert.cli.progress import RichProgress
        from aslconvert.cli.views import show_report

        with RichProgress() as progress:
            if server is not None:
                from aslconvert.cli.remote.convert import convert_there

                report = convert_there(
                    model, data=data, out=out, options=chosen, server=server, key_file=key_file, progress=progress
                )
            else:
                from aslconvert.converter.pipeline import convert as run

                report = run(model, data=data, out=out, options=chosen, progress=progress)
        if json:
            write_json(report, stream)
        else:
            show_report(report, page(stream), folder=None if dry_run else out)
