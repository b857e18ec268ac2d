"""The options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypedDict

import typer

from aslconvert.converter import options as parsed

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A .pt2 or .onnx file, arch:NAME[@weights.safetensors], module:factory or file.py:factory.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of every measured runtime.", show_default="all cores")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Every random choice derives from it.")]

DATA_HELP = (
    "An image folder (class subfolders optional), a zip or tar of one, an .npz or .safetensors file with arrays named "
    "after the model's inputs (target or label optional), or module:factory. For convert also none: inputs are then "
    "made up from batch-norm statistics."
)
Size = Annotated[
    str | None, typer.Option("--size", metavar="N|HxW", help="Resize images to this size.", show_default=False)
]
Scale = Annotated[
    str | None,
    typer.Option("--scale", metavar="X|1/255", help="Factor on raw values, before mean and std.", show_default=False),
]
Mean = Annotated[
    str | None, typer.Option("--mean", metavar="X,..", help="Subtracted, per channel or for all.", show_default=False)
]
Std = Annotated[
    str | None, typer.Option("--std", metavar="X,..", help="Divided by, per channel or for all.", show_default=False)
]
Channels = Annotated[
    str | None, typer.Option("--channels", metavar="rgb|bgr|gray", help="Order of channels.", show_default=False)
]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="GLOB", help="Leave the sites whose name matches; repeatable.", show_default=False),
]
MaxParams = Annotated[
    float | None,
    typer.Option("--max-params-mb", metavar="X", help="Most MB of parameters of a variant.", show_default=False),
]
MaxMacs = Annotated[
    str | None,
    typer.Option(
        "--max-macs", metavar="X", help="Most multiply-adds of one sample, such as 300M or 1.2G.", show_default=False
    ),
]
Int16 = Annotated[
    bool,
    typer.Option(
        "--int16/--no-int16", help="Run variants in 16-bit integers too, where the processor multiplies them faster."
    ),
]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Samples a call that latency is measured with.", show_default="1")
]
Cache = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Take latencies of sites from earlier runs on this device, or measure."),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that convert wrote.", show_default=False)]

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="ASLCONVERT_SERVER",
        help="The service to ask.",
        show_default="http://127.0.0.1:8765",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="A file that holds the API key; else ASLCONVERT_KEY, or what serve left on this machine.",
        show_default=False,
    ),
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="The id that submit told.", show_default=False)]


class Preparation(TypedDict):
    """The fields of `ConvertOptions` that say how samples are prepared."""

    size: tuple[int, int] | None
    scale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    channels: parsed.Channels | None


def preparation(
    *, size: str | None, scale: str | None, mean: str | None, std: str | None, channels: str | None
) -> Preparation:
    """The written preparation, read. Raises UsageError for what cannot be read."""
    return {
        "size": None if size is None else parsed.parse_size(size),
        "scale": None if scale is None else parsed.parse_number(scale),
        "mean": None if mean is None else parsed.parse_numbers(mean),
        "std": None if std is None else parsed.parse_numbers(std),
        "channels": None if channels is None else parsed.parse_channels(channels),
    }
