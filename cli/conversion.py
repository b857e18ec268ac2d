"""The options of a conversion, for the commands that run one here or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        min=0.0,
        help="Fastest variant that loses at most X of the metric (dB for psnr, a fraction for top1).",
        show_default=False,
    ),
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(
        "--min-speedup",
        help="Best variant at least Y times faster than the original in its fastest runtime.",
        show_default=False,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric", help="top1, psnr, mse, miou, agreement or file.py:function.", show_default="what the data allows"
    ),
]
Budget = Annotated[str, typer.Option("--budget", metavar="10m", help="Time for healing and search.")]
Device = Annotated[
    str, typer.Option("--device", help="Where variants are healed: cpu, cuda, or auto. Latency is the CPU's.")
]
Allow = Annotated[
    str | None,
    typer.Option(
        "--allow",
        metavar="NAME,..",
        help="Further variants: prune (channels cut from converted ones and from the original), int8 (the "
        "original and every variant in 8 bits).",
        show_default=False,
    ),
]
HealCrop = Annotated[
    str | None,
    typer.Option(
        "--heal-crop",
        metavar="SIZE[/MULTIPLE]",
        help="Heal on random crops whose corners lie on multiples of MULTIPLE.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and stop; nothing is written.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run in DIR stopped.")]
Artifacts = Annotated[
    str,
    typer.Option(
        "--artifacts",
        metavar="KIND,..",
        help="What to write: portable, fast, trainable, onnx, int8, weights, code, aoti; default (all but int8 and "
        "aoti) or all.",
    ),
]
HealSteps = Annotated[
    int | None,
    typer.Option("--heal-steps", min=1, help="Heal by steps, not by time: repeatable.", show_default=False),
]
HealBatch = Annotated[
    int | None, typer.Option("--heal-batch", min=1, help="Samples of one step of healing.", show_default="8")
]
Accumulate = Annotated[
    int,
    typer.Option("--accumulate", metavar="M", min=1, help="Compute each step of healing in M pieces: less memory."),
]
Processes = Annotated[
    int,
    typer.Option("--processes", metavar="N", min=1, help="Heal in N processes of this machine, on GPUs one each."),
]
TaskLoss = Annotated[
    float,
    typer.Option(
        "--task-loss",
        metavar="W",
        min=0,
        max=1,
        help="Weight of the data's own labels or targets in healing, beside the original's answers.",
    ),
]
Plan = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Repeat the plans, steps and choice of an earlier run's plan.json instead of measuring them.",
        show_default=False,
    ),
]
DumpPasses = Annotated[
    Path | None,
    typer.Option(
        "--dump-passes", metavar="DIR", help="Write the graph before and after each pass.", show_default=False
    ),
]
