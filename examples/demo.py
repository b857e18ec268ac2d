"""The main job on real input: a pretrained demosaicker, converted without labels, and what came out of it.

Exports the network of the `demosaicnet` package, converts it on photos out of the scikit-image and scikit-learn
wheels, and prints the frontier. Everything lands in out/demo/; report.html there is the page to look at.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import photos
from command import ROOT, aslconvert

OUT = ROOT / "out" / "demo"
BUDGET = "400s"
MIN_SPEEDUP = "3"

# One thread: on a machine whose cores others use too, two threads wait for each other and time only that.
THREADS = "1"


def main() -> int:
    """Run the demo; the exit code is that of the command that failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default=BUDGET, help="time for search, fit and healing (default %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted demo stopped")
    arguments = parser.parse_args()
    started = time.monotonic()
    print("photos and weights from their packages")
    data = photos.prepare()
    print(photos.summary(data))
    OUT.mkdir(parents=True, exist_ok=True)
    model = OUT / "demosaicker.pt2"
    factory = str(ROOT / "examples" / "demosaicker.py") + ":pretrained"
    code = (
        aslconvert("export", factory, "-o", model)
        or aslconvert("inspect", model, "--data", data)
        or aslconvert(
            "convert", model, "--data", data, "--out", OUT, "--metric", "psnr",
            "--min-speedup", MIN_SPEEDUP, "--heal-crop", "64/2", "--budget", arguments.budget, "--threads", THREADS,
            *(["--resume"] if arguments.resume else []),
        )
        or aslconvert("verify", OUT)
    )  # fmt: skip
    print(f"{time.monotonic() - started:.0f} s in all; look at {OUT / 'report.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
