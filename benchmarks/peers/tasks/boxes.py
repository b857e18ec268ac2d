"""Boxes as maps: what a detector learns, how its maps become boxes again, and the F1 score of an image.

A cell of the maps covers ``CELL`` pixels. Source: Zhou et al., "Objects as Points", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

CELL = 8
"""Pixels along a side of a cell."""

OVERLAP = 0.5
"""Intersection over union from which a found box is the wanted one."""

LEAST_SCORE = 0.3
MOST_BOXES = 16
HIDDEN = 0.6
"""A box that overlaps one of a higher score so much is dropped, whatever its class."""

SIZE_WEIGHT = 0.5
"""Of the boxes' error, in cells, beside that of the heat."""


def heat_of(target: Tensor, classes: int, side: int) -> Tensor:
    """The heat to learn: boxes [N, M, 5] of (class or -1, left, top, right, bottom) -> [N, classes, side, side].

    Each object is a Gaussian bump around the cell of its middle, where it is one.
    """
    heat = torch.zeros(len(target), classes, side, side)
    cells = torch.arange(side, dtype=torch.float32)
    for image, boxes in enumerate(target):
        for kind, left, top, right, bottom in boxes[boxes[:, 0] >= 0].tolist():
            column, row = (int((low + high) / 2 // CELL) for low, high in ((left, right), (top, bottom)))
            spread = max(right - left, bottom - top) / CELL / 6
            bump = torch.outer(*(torch.exp(-((cells - at) ** 2) / (2 * spread**2)) for at in (row, column)))
            heat[image, int(kind)] = torch.maximum(heat[image, int(kind)], bump)
    return heat


def loss(outputs: Sequence[Tensor], target: Tensor) -> Tensor:
    """Focal loss of the heat and L1 of the boxes at the cells of the objects' middles.

    outputs: heat [N, classes, h, w] before the sigmoid, and boxes [N, 4, h, w]: the middle's place in its cell and the
    logarithm of the size in cells, each as (x, y).
    """
    scores, boxes = outputs
    heat = heat_of(target, scores.shape[1], scores.shape[2])
    sure = torch.sigmoid(scores)
    at_middle = heat == 1
    found = functional.logsigmoid(scores) * (1 - sure).square() * at_middle
    empty = functional.logsigmoid(-scores) * sure.square() * (1 - heat) ** 4 * ~at_middle
    image, index = (target[..., 0] >= 0).nonzero(as_tuple=True)
    wanted = target[image, index]
    middle, size = (wanted[:, 1:3] + wanted[:, 3:5]) / 2 / CELL, (wanted[:, 3:5] - wanted[:, 1:3]) / CELL
    column, row = middle.long().T
    given = boxes[image, :, row, column]
    apart = (given - torch.cat([middle - middle.floor(), size.log()], 1)).abs().sum()
    return (SIZE_WEIGHT * apart - found.sum() - empty.sum()) / max(len(wanted), 1)


def decode(scores: Tensor, boxes: Tensor) -> Tensor:
    """One image's boxes [n, 6] of (class, left, top, right, bottom, score), best first, from heat [C, h, w] and
    boxes [4, h, w]."""
    sure = torch.sigmoid(scores)
    peaks = sure * (functional.max_pool2d(sure[None], 3, stride=1, padding=1)[0] == sure)
    best = peaks.flatten().topk(min(MOST_BOXES, peaks.numel()))
    index = best.indices[best.values >= LEAST_SCORE]
    kind, cell = index // sure[0].numel(), index % sure[0].numel()
    row, column = cell // sure.shape[2], cell % sure.shape[2]
    x, y, wide, high = boxes[:, row, column]
    # The exponent is bounded, so that no output of a broken network overflows.
    middle = torch.stack([column + x, row + y], 1)
    half = torch.stack([wide, high], 1).clamp(max=5).exp() / 2
    corners = torch.cat([middle - half, middle + half], 1) * CELL
    kept: list[int] = []
    alike = overlaps(corners, corners)
    for one in range(len(index)):
        if not kept or float(alike[one, kept].max()) < HIDDEN:
            kept.append(one)
    return torch.cat([kind[:, None].to(corners), corners, peaks.flatten()[index, None]], 1)[kept]


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4] of (left, top, right, bottom)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clamp_min(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1) for boxes in (first, second)]
    return both / (areas[0][:, None] + areas[1] - both).clamp_min(1e-9)


def mean_f1(outputs: Sequence[Tensor], target: Tensor) -> Tensor:
    """F1 [N] of each image: found boxes, best first, take the wanted one of their class that they overlap most."""
    scores = []
    for heat, boxes, wanted in zip(*outputs, target, strict=True):
        found, real = decode(heat, boxes), wanted[wanted[:, 0] >= 0]
        alike = overlaps(found[:, 1:5], real[:, 1:5]) * (found[:, :1] == real[:, 0])
        hits = 0
        for one in range(len(found)):
            if len(real) and float(alike[one].max()) >= OVERLAP:
                alike[:, alike[one].argmax()] = 0
                hits += 1
        scores.append(2 * hits / max(len(found) + len(real), 1))
    return torch.tensor(scores, dtype=torch.float64)
