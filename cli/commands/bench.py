"""`aslconvert bench`: latency of a file, or of a conversion's artifacts, in every runtime, interleaved in one run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json
from aslconvert.converter.errors import UsageError
from aslconvert.converter.options import DEFAULT_SEED

Runtimes = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="R,..",
        help="For a bench: torch, torch_channels_last, compile, onnxruntime, openvino.",
        show_default="all",
    ),
]
Shape = Annotated[
    str | None,
    typer.Option(
        "--shape",
        metavar="1x3x224x224",
        help="For a bench: shape of the input.",
        show_default="the model's example inputs",
    ),
]
Rounds = Annotated[int, typer.Option("--rounds", min=3, help="For a bench: samples of each row.")]


def bench(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A folder that convert wrote, or any MODEL that convert takes.")
    ],
    *,
    runtime: Runtimes = None,
    shape: Shape = None,
    rounds: Rounds = 15,
    original: Annotated[
        str | None,
        typer.Option("--original", metavar="MODEL", help="Time the model that was converted too.", show_default=False),
    ] = None,
    threads: options.Threads = None,
    seed: options.Seed = DEFAULT_SEED,
    json: options.Json = False,
) -> None:
    """Time PATH in every runtime; all rows are measured in turns within one run."""
    sizes = None if shape is None else _sizes(shape)
    with answer_stream() as stream:
        from aslconvert.cli.views import show_bench
        from aslconvert.converter.cost import bench as benching

        report = benching.bench(
            path, runtimes=_names(runtime), shape=sizes, threads=threads, rounds=rounds, seed=seed, original=original
        )
        if json:
            write_json(report, stream)
        else:
            show_bench(report, page(stream))


def job_options(
    runtime: str | None, shape: str | None, *, rounds: int, threads: int | None, seed: int
) -> dict[str, Any]:
    """The options of a bench as a job takes them."""
    sizes = None if shape is None else list(_sizes(shape))
    given = {"runtimes": _names(runtime), "shape": sizes, "rounds": rounds, "threads": threads, "seed": seed}
    return {name: value for name, value in given.items() if value is not None}


def _names(runtime: str | None) -> list[str] | None:
    return None if runtime is None else [name.strip() for name in runtime.split(",") if name.strip()]


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError("bad_shape", f"'{text}' is not a shape.", hint="Write 1x3x224x224.")
    return tuple(int(part) for part in parts)
