"""`make zoo`, or `PYTHONPATH=benchmarks python -m zoo [NAME ...]`: every architecture, or the named ones.

Names leave the others as the last run recorded them. Exit code 1 when one failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from zoo.check import KINDS, LIMITS, Outcome, as_record, check_net
from zoo.nets import NETS
from zoo.table import page


def main() -> int:
    """Runs them one after the other; the record is written after each."""
    parser = argparse.ArgumentParser(
        prog="zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETS)}")
    parser.add_argument("--out", type=Path, default=Path("out/zoo"))
    parser.add_argument("--page", type=Path, default=Path("docs/zoo.md"))
    parser.add_argument("--limit", type=int, default=300, help="seconds of the processor an architecture may take")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="artifacts that are written and reloaded")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NETS]
    if unknown:
        parser.error(f"no such architecture: {', '.join(unknown)}")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "zoo.json"
    known = {}
    if options.names and file.exists():
        # A record that other code wrote in another form is no record of this run's kind.
        fields = {field.name for field in dataclasses.fields(Outcome)}
        models = json.loads(file.read_text())["models"]
        known = {model["name"]: model for model in models if model.keys() == fields}
    for name in options.names or NETS:
        outcome = check_net(NETS[name], options.out / f"{name}.part", limit_s=options.limit, kinds=options.kinds)
        known[name] = as_record(outcome)
        total = sum(outcome.seconds.values())
        print(
            f"{outcome.status:7} {name}: {outcome.converted} of {outcome.sites}, {total:.0f} s {outcome.reason}",
            flush=True,
        )
        models = [known[each] for each in NETS if each in known]
        seconds = sum(sum(model["seconds"].values()) for model in models)
        record = {"torch": torch.__version__, "seconds": seconds, "models": models}
        whole = file.with_suffix(".part")
        whole.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(whole, file)
        options.page.write_text(page(record, defined=list(NETS), **LIMITS))
    return any(known[name]["status"] == "failed" for name in options.names or NETS)


if __name__ == "__main__":
    sys.exit(main())
