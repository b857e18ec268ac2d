"""`aslconvert submit`: sends a model and data to a service and starts a job there."""

from __future__ import annotations

from typing import Annotated

import typer

from aslconvert.cli import conversion, options
from aslconvert.cli.commands import bench as benching
from aslconvert.cli.console import answer_stream, say, write_json
from aslconvert.converter.errors import UsageError
from aslconvert.converter.options import (
    DEFAULT_SEED,
    ConvertOptions,
    parse_allow,
    parse_amount,
    parse_artifacts,
    parse_crop,
    parse_duration,
)


def submit(
    model: options.Model,
    *,
    data: Annotated[
        str | None,
        typer.Option("--data", help="A folder of images, an archive or a file of arrays.", show_default=False),
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", metavar="convert|inspect|bench", help="What the job does.")
    ] = "convert",
    max_drop: conversion.MaxDrop = None,
    min_speedup: conversion.MinSpeedup = None,
    max_params_mb: options.MaxParams = None,
    max_macs: options.MaxMacs = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="top1, psnr, mse, miou or agreement (with the original).",
            show_default="what the data allows",
        ),
    ] = None,
    budget: conversion.Budget = "10m",
    keep: options.Keep = None,
    allow: conversion.Allow = None,
    int16: options.Int16 = True,
    heal_crop: conversion.HealCrop = None,
    size: options.Size = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    channels: options.Channels = None,
    seed: options.Seed = DEFAULT_SEED,
    threads: options.Threads = None,
    batch: options.Batch = None,
    artifacts: conversion.Artifacts = "default",
    heal_steps: conversion.HealSteps = None,
    heal_batch: conversion.HealBatch = None,
    accumulate: conversion.Accumulate = 1,
    task_loss: conversion.TaskLoss = 0.0,
    runtime: benching.Runtimes = None,
    shape: benching.Shape = None,
    rounds: benching.Rounds = 15,
    webhook: Annotated[
        str | None,
        typer.Option("--webhook", metavar="URL", help="Is told when the job has ended.", show_default=False),
    ] = None,
    webhook_secret: Annotated[
        str | None,
        typer.Option(
            "--webhook-secret",
            envvar="ASLCONVERT_WEBHOOK_SECRET",
            help="Signs what the webhook is told.",
            show_default=False,
        ),
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option("--max-attempts", min=1, help="Tries when machines fail.", show_default="3")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="TEXT", help="The same text starts the same job once.", show_default=False
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait as `wait` does.")] = False,
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Send MODEL and DATA to a service, where it has not got them already, and start a job; prints its id."""
    if kind not in ("convert", "inspect", "bench"):
        raise UsageError("kind", f"No job is of kind {kind!r}.", hint="Name convert, inspect or bench.")
    if kind == "bench" and data is not None:
        raise UsageError("bench_data", "A bench takes no data.", hint="Leave --data out.")
    if kind != "bench" and (runtime, shape, rounds) != (None, None, 15):
        raise UsageError("bench_option", "--runtime, --shape and --rounds are a bench's.", hint="Add --kind bench.")
    if kind == "convert" and data is None:
        raise UsageError("needs_data", "A conversion needs data.", hint="Give --data.")
    if (webhook is None) != (webhook_secret is None):
        raise UsageError("webhook", "A webhook needs a secret, and a secret a webhook.", hint="Give both or neither.")
    chosen = ConvertOptions(
        max_drop=max_drop,
        min_speedup=min_speedup,
        max_params_mb=max_params_mb,
        max_macs=None if max_macs is None else parse_amount(max_macs),
        metric=metric,
        budget_seconds=parse_duration(budget),
        keep=tuple(keep or ()),
        allow=() if allow is None else parse_allow(allow),
        int16=int16,
        seed=seed,
        threads=threads,
        batch=batch,
        artifacts=parse_artifacts(artifacts),
        heal_steps=heal_steps,
        heal_batch=heal_batch,
        accumulate=accumulate,
        task_loss=task_loss,
        heal_crop=None if heal_crop is None else parse_crop(heal_crop),
        **options.preparation(size=size, scale=scale, mean=mean, std=std, channels=channels),
    )
    with answer_stream() as stream:
        from aslconvert.cli.progress import RichProgress
        from aslconvert.cli.remote.convert import require_sendable
        from aslconvert.cli.remote.convert import submit as start
        from aslconvert.cli.remote.outcomes import missed, opened
        from aslconvert.cli.remote.views import result_line
        from aslconvert.cli.remote.watching import watch

        require_sendable(chosen)
        with opened(server, key_file) as client, RichProgress() as progress:
            job = start(
                client,
                model,
                data=data,
                options=chosen,
                progress=progress,
                kind=kind,
                max_attempts=max_attempts,
                idempotency_key=idempotency_key,
                bench=benching.job_options(runtime, shape, rounds=rounds, threads=threads, seed=seed),
                webhook=None if webhook is None else {"url": webhook, "secret": webhook_secret},
            )
            if wait:
                progress.note(f"Job {job.id}")
                job = watch(client, job.id, progress)
                came = result_line(client, job)
        if wait:
            say(f"aslconvert: {came}")
        if json:
            if wait:
                # One document: that what was asked for was missed, or the job.
                missed(job)
            write_json(job, stream)
            return
        stream.write(f"{job.id}\n")
        stream.flush()
        if wait:
            missed(job)
