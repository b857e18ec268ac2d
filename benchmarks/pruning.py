"""How many architectures lose 30 % of the channels they can lose, converted with one row a channel, and why others not.

    python benchmarks/pruning.py [--ratio 0.3] [--side 64] [--nets resnet-18 ...] [--page docs/pruning.md]

Random weights, stand-ins for fitted blocks: what is measured is which groups of channels can go, and whether the pruned
network is the whole one that ignores them. Writes out/bench/pruning.json and the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from aslconvert.converter.errors import AslconvertError
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.prune.channels import REASONS, prune_channels
from aslconvert.converter.search.candidates import stand_in

sys.path.insert(0, str(Path(__file__).parent))
from zoo.nets import NETS, Net

CHOSEN = (
    *("resnet-18", "resnet-50", "mobilenet-v1", "mobilenet-v2", "efficientnet-b0", "convnext-tiny", "convnextv2-tiny"),
    *("regnet-y-040", "segformer-b0", "poolformer-s12", "mobilevit-small", "bit-50", "yolo-like", "traps", "tcn"),
    *("r3d-18", "bn_vgg11", "resnet20_cifar10", "squeezenet_v1_1", "shufflenetv2_wd2", "darknet_tiny"),
    *("unet_cityscapes", "centernet_resnet18_voc", "ghostnet", "seresnet10", "dla46c"),
)


def measure(net: Net, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one network."""
    torch.manual_seed(options.seed)
    row: dict[str, Any] = {"name": net.name, "origin": net.origin}
    started = time.perf_counter()
    try:
        gm, x = _converted(net, options)
        pruned, report = prune_channels(gm, (x,), ratio=options.ratio, seed=options.seed)
    except AslconvertError as error:
        return {**row, "status": "refused", "code": error.code, "reason": error.message}
    except Exception as error:  # noqa: BLE001  a network that fails must not stop the others
        return {**row, "status": "failed", "code": type(error).__name__, "reason": str(error).partition("\n")[0]}
    try:
        with torch.no_grad():
            larger = torch.utils._pytree.tree_leaves(pruned(torch.cat([x, x[:1]])))
        other_batch = all(leaf.shape[0] == len(x) + 1 for leaf in larger)
    except RuntimeError:
        other_batch = False
    reasons = Counter(group.reason for group in report.kept)
    return {
        **row,
        "status": "pruned",
        "shape": list(x.shape),
        "groups": len(report.groups),
        "groups_pruned": len(report.pruned),
        "params": report.params_after / report.params_before,
        "macs": report.macs_after / report.macs_before,
        "difference": max(group.difference for group in report.pruned),
        "other_batch": other_batch,
        "kept": dict(reasons),
        "details": [[group.layer, group.channels, group.reason, group.detail] for group in report.kept],
        "seconds": time.perf_counter() - started,
    }


def _converted(net: Net, options: argparse.Namespace) -> tuple[torch.fx.GraphModule, torch.Tensor]:
    model = net.build().eval()
    sides = [options.side if side > options.side else side for side in net.shape[2:]]
    for shape in ((*net.shape[:2], *sides), net.shape):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed))
        try:
            gm = prepare(graph_module(export_model(model, (x,))))
        except AslconvertError:
            # A classifier that pools a fixed window has no smaller input.
            continue
        sites = find_sites(gm)[0]
        blocks = {site.name: stand_in(site, site.in_channels, seed=index) for index, site in enumerate(sites)}
        return (replace_sites(gm, blocks) if blocks else gm), x
    gm = prepare(graph_module(export_model(model, (x,))))
    return gm, x


def table(rows: list[dict[str, Any]], ratio: float) -> str:
    """The page's table, in Markdown."""
    good = [row for row in rows if row["status"] == "pruned"]
    lines = [
        f"{len(good)} of {len(rows)} architectures lose {ratio:.0%} of the channels of the groups that can be pruned.",
        "",
        "| architecture | of | groups pruned | parameters left | multiply-adds left | difference | groups kept, why |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["status"] == "pruned":
            kept = ", ".join(f"{count} {code}" for code, count in sorted(row["kept"].items()))
            lines.append(
                f"| {row['name']} | {row['origin']} | {row['groups_pruned']} of {row['groups']} | {row['params']:.0%} "
                f"| {row['macs']:.0%} | {row['difference']:.0e} | {kept} |"
            )
        else:
            lines.append(f"| {row['name']} | {row['origin']} | none: {row['code']} | | | | {row['reason'][:150]} |")
    lines += ["", *(f"- `{code}`: {text}" for code, text in REASONS.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures the networks and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", nargs="+", default=list(CHOSEN))
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--side", type=int, default=64, help="sides of the image, where the network takes it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/bench/pruning.json"))
    parser.add_argument("--update", action="store_true", help="keep the rows that --out has of other networks")
    parser.add_argument("--page", type=Path, help="a Markdown page whose text after the marker becomes the table")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.update:
        rows = [row for row in json.loads(options.out.read_text())["rows"] if row["name"] not in options.nets]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.nets:
        row = measure(NETS[name], options)
        rows.append(row)
        print(name, row["status"], row.get("code") or f"{row['params']:.2f} {row['seconds']:.1f} s", flush=True)
        result = {"ratio": options.ratio, "seed": options.seed, "rows": rows}
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if options.page:
        head = options.page.read_text().partition(MARKER)[0]
        options.page.write_text(f"{head}{MARKER}\n\n{table(rows, options.ratio)}")
    print(table(rows, options.ratio))


MARKER = "<!-- table: written by benchmarks/pruning.py -->"

if __name__ == "__main__":
    main()
