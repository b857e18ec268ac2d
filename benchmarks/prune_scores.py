"""What scoring channels on data and refitting weights are worth: the demosaicker of `make demo`, cut in four ways.

    python benchmarks/prune_scores.py [--shares 0.125 0.25] [--rows 1.5]

Needs what `make demo` fetched and exported. Every site of 16 channels and more is converted with the same number of
rows a channel; the loss is healing's own on 64 crops that nothing was fitted to, before any healing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.fit.layerwise import fit_layerwise
from aslconvert.converter.heal.held_out import probe_loss
from aslconvert.converter.heal.loop import BATCH
from aslconvert.converter.heal.pool import build_pool, draw_samples
from aslconvert.converter.options import ConvertOptions, parse_crop
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.pruned import REFIT_BATCHES, SCORED_BATCHES
from aslconvert.converter.pipeline.subject import open_subject
from aslconvert.converter.prune.channels import prune_channels
from aslconvert.converter.prune.refit import refit

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "out" / "demo" / "demosaicker.pt2")
    parser.add_argument("--data", type=Path, default=ROOT / ".cache" / "photos.npz")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.125, 0.25])
    parser.add_argument("--rows", type=float, default=1.5, help="rows a channel")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = ConvertOptions(heal_crop=parse_crop("64/2"), metric="psnr", threads=1)
    subject = open_subject(str(arguments.model), data=str(arguments.data), options=options)
    batches = subject.calibration(options)
    pool = build_pool(subject.gm, draw_samples(subject.data.split("heal"), 64, crop=options.heal_crop, seed=1))
    importance = output_importance(subject.gm, subject.sites, batches[:2], seed=0)
    # The first and the last layers read few channels; the plans keep them.
    sites = [site for site in subject.sites if site.in_channels >= 16]
    rows = {site.name: min(int(site.in_channels * arguments.rows), site.exact_rows) for site in sites}
    fits = fit_layerwise(subject.gm, subject.sites, rows, batches, importance=importance)
    student = replace_sites(subject.gm, {name: fit.block for name, fit in fits.items()})
    print(f"fitted: loss {probe_loss(student, pool, batch=BATCH):.4f}")
    print("| share | scored by | parameters | loss, cut | loss, refitted |\n|---|---|---|---|---|", flush=True)
    for share in arguments.shares:
        for kind in ("random", "magnitude", "output"):
            pruned, report = prune_channels(
                student, subject.example, ratio=share, importance=kind, batches=batches[:SCORED_BATCHES]
            )
            again, _ = refit(pruned, student, batches[:REFIT_BATCHES], report.outputs)
            losses = [f"{probe_loss(gm, pool, batch=BATCH):.4f}" for gm in (pruned, again)]
            print(f"| {share:.3f} | {kind} | {report.params_after:,} | {' | '.join(losses)} |", flush=True)


if __name__ == "__main__":
    main()
