"""The fit: its time and memory on whole networks, how both grow, and what wide layers lose to the cheaper pursuit.

    python benchmarks/fit.py [--parts networks growth wide] [--threads 2] [--images 64]

networks: ResNet-18 and ResNet-50 of 224x224, as many rows as channels, peak memory of the whole process.
growth: a chain of equal convolutions, by sites and by images; the straight line's r^2.
wide: one 3x3 layer of C to C channels, each in a process of its own: as it is fitted, on samples and several rows at
once; the same on a tenth of the positions; and, as far as --exact goes, row by row on all positions with the whole
covariance matrix. Unseen errors are of the same positions for all, which no fit has read.
Prints tables and writes out/bench/fit.json and docs/pictures/fit-growth.svg.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import altair as alt
import torch
import vl_convert
from torch import Tensor, fx, nn
from torch.nn import functional
from zoo.sane import smooth_images

from aslconvert.converter.fit import pursuit
from aslconvert.converter.fit.dictionary import build_dictionary
from aslconvert.converter.fit.layerwise import fit_layerwise
from aslconvert.converter.fit.sampled import SampledTaps
from aslconvert.converter.fit.solve import Statistics, fit_block
from aslconvert.converter.fit.statistics import TapStatistics
from aslconvert.converter.importers.model import open_model
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.site import Geometry
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.prepare import prepare

NETWORKS = ("arch:resnet-18", "arch:resnet-50")
GEOMETRY = Geometry((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
BATCH = 8
WIDTHS = (512, 1024, 2048)
FORMS = FITTED, TENTH, EXACT = "as fitted", "as fitted, a tenth of the positions", "row by row, covariance matrix"
SITES, IMAGES = (4, 8, 16, 24, 32), (16, 32, 64, 96, 128)
CHAIN_WIDTH, CHAIN_SIDE = 32, 56
LATENT = 64
"""Independent signals that the channels of a wide layer mix."""


def main() -> None:
    """Runs the parts and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", default=["networks", "growth", "wide"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--exact", type=int, default=1024, help="greatest C that is also fitted row by row")
    parser.add_argument("--out", type=Path, default=Path("out/bench/fit.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/fit-growth.svg"))
    options = parser.parse_args()
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    profile = {"torch": torch.__version__, "threads": options.threads, "images": options.images}
    if "networks" in options.parts:
        rows = [_apart(network, name, options.images, options.threads) for name in NETWORKS]
        record["networks"] = {"profile": profile, "rows": rows}
        _table(rows)
    if "growth" in options.parts:
        record["growth"] = {"profile": profile, **_apart(growth, options.threads)}
        _table(record["growth"]["points"])
        print(f"straight line: r^2 {record['growth']['r2']}")
        draw(record["growth"]["points"], options.picture)
    if "wide" in options.parts:
        rows = [
            _apart(wide, width, form, options.images, options.threads)
            for width in WIDTHS
            for form in FORMS
            if form != EXACT or width <= options.exact
        ]
        record["wide"] = {"profile": profile, "rows": rows}
        _table(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.out}")


def network(name: str, images: int, threads: int) -> dict[str, Any]:
    """All sites with as many rows as channels."""
    torch.set_num_threads(threads)
    gm = fold_batch_norm(prepare(graph_module(open_model(name))))
    x = smooth_images((images, 3, 224, 224), seed=1)
    before = _peak_gb()
    seconds, errors = _fit(gm, x)
    return {
        "network": name,
        "sites": len(errors),
        "images": images,
        "seconds": round(seconds, 1),
        "before_gb": before,
        "peak_gb": _peak_gb(),
        "mean_error": round(sum(errors) / len(errors), 4),
    }


def growth(threads: int) -> dict[str, Any]:
    """Seconds by sites and by images; the median of three."""
    torch.set_num_threads(threads)
    runs = [("sites", count, 32) for count in SITES] + [("images", 8, count) for count in IMAGES]
    points = []
    for axis, sites, images in runs:
        gm = _chain(sites)
        x = smooth_images((images, CHAIN_WIDTH, CHAIN_SIDE, CHAIN_SIDE), seed=1)
        seconds = sorted(_fit(gm, x)[0] for _ in range(3))[1]
        points.append({"axis": axis, "sites": sites, "images": images, "seconds": round(seconds, 3)})
    r2 = {axis: round(_r2([p for p in points if p["axis"] == axis], axis), 4) for axis in ("sites", "images")}
    return {"points": points, "r2": r2}


def wide(width: int, form: str, images: int, threads: int) -> dict[str, Any]:
    """One layer on 14x14 positions an image; its inputs and outputs are made before the clock starts."""
    torch.set_num_threads(threads)
    if form == EXACT:
        pursuit.AT_ONCE = float("inf")
    weight = torch.randn(width, width, 3, 3, generator=torch.Generator().manual_seed(0)) / (9 * width) ** 0.5
    seen, unseen = ([(x, functional.conv2d(x, weight, padding=1)) for x in _activations(width, count, seed=seed)]
                    for count, seed in ((images, 1), (16, 2)))  # fmt: skip
    whole = images * 196 * width * 9 * 4
    statistics: Statistics = {
        FITTED: lambda: SampledTaps(GEOMETRY),
        TENTH: lambda: SampledTaps(GEOMETRY, limit_bytes=whole // 10),
        EXACT: lambda: TapStatistics(GEOMETRY, position_stride=1),
    }[form]()
    before, start = _peak_gb(), time.perf_counter()
    for x, y in seen:
        statistics.update(x, y)
    gathered = time.perf_counter() - start
    block, error = fit_block(statistics, build_dictionary(GEOMETRY), rows=width)
    seconds, peak = time.perf_counter() - start, _peak_gb()
    lost = total = 0.0
    for x, y in unseen:
        parts = block.shift, block.source, block.weight, block.bias
        got = torch.ops.asl.shift_pointwise(x, *parts, [1, 1], list(GEOMETRY.delta), False)
        lost += float((got - y).square().sum())
        total += float((y - y.mean((0, 2, 3), keepdim=True)).square().sum())
    return {
        "channels": width,
        "fit": form,
        "positions": statistics.count,
        "rows_at_once": pursuit.choose_together(statistics.moments(), width),
        "seconds": round(seconds, 1),
        "statistics_s": round(gathered, 1),
        "before_gb": before,
        "peak_gb": peak,
        "error_seen": round(error**0.5, 5),
        "error_unseen": round((lost / total) ** 0.5, 5),
    }


def draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds against sites and against images, side by side."""
    charts = []
    for axis, title in (("sites", "sites (32 images)"), ("images", "images (8 sites)")):
        values = [{"n": p[axis], "seconds": p["seconds"]} for p in points if p["axis"] == axis]
        base = alt.Chart(alt.Data(values=values)).encode(
            x=alt.X("n:Q", title=title), y=alt.Y("seconds:Q", title="seconds of fitting")
        )
        line = base.transform_regression("n", "seconds").mark_line(color="#999", strokeDash=[4, 3])
        charts.append((line + base.mark_point(filled=True, size=60)).properties(width=260, height=200))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(vl_convert.vegalite_to_svg(alt.hconcat(*charts).to_json()))
    print(f"wrote {path}")


def _fit(gm: fx.GraphModule, x: Tensor) -> tuple[float, list[float]]:
    sites, _ = find_sites(gm)
    rows = {site.name: min(site.in_channels, site.exact_rows) for site in sites}
    start = time.perf_counter()
    fits = fit_layerwise(gm, sites, rows, [(part,) for part in x.split(BATCH)])
    return time.perf_counter() - start, [fit.error for fit in fits.values()]


def _chain(sites: int) -> fx.GraphModule:
    torch.manual_seed(0)
    layers = [
        layer for _ in range(sites) for layer in (nn.Conv2d(CHAIN_WIDTH, CHAIN_WIDTH, 3, padding=1), nn.LeakyReLU())
    ]
    example = torch.randn(2, CHAIN_WIDTH, CHAIN_SIDE, CHAIN_SIDE)
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    program = torch.export.export(nn.Sequential(*layers).eval(), (example,), dynamic_shapes=(batch,))
    return prepare(graph_module(program))


def _activations(width: int, images: int, *, seed: int) -> list[Tensor]:
    """Batches as a layer inside a network sees them: channels and neighbours correlated, rectified, some noise."""
    shared = torch.randn(width, LATENT, generator=torch.Generator().manual_seed(0)) / LATENT**0.5
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(0, images, BATCH):
        smooth = functional.avg_pool2d(torch.randn(BATCH, LATENT, 16, 16, generator=generator), 3, 1) * 3
        noise = torch.randn(BATCH, width, 14, 14, generator=generator)
        batches.append(torch.einsum("oc,nchw->nohw", shared, smooth).relu() + 0.1 * noise)
    return batches


def _r2(points: Sequence[dict[str, Any]], axis: str) -> float:
    n = torch.tensor([[1.0, float(p[axis])] for p in points], dtype=torch.float64)
    seconds = torch.tensor([p["seconds"] for p in points], dtype=torch.float64)
    left = seconds - n @ torch.linalg.lstsq(n, seconds).solution
    return 1 - float(left.square().sum() / (seconds - seconds.mean()).square().sum())


def _peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _apart(job: Callable[..., Any], *args: Any) -> Any:
    # A process of its own, since the peak of memory is the process's.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(job, *args).result()


def _table(rows: Sequence[dict[str, Any]]) -> None:
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    print("  ".join(f"{key:>{width}}" for key, width in widths.items()))
    for row in rows:
        print("  ".join(f"{row[key]!s:>{width}}" for key, width in widths.items()))


if __name__ == "__main__":
    main()
