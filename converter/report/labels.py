"""Places the labels of a scatter plot so that they cover neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Pixel = tuple[float, float]
_CHARACTER, _LINE, _GAP, _POINT = 6.6, 14.0, 9.0, 6.0


@dataclass(frozen=True)
class Label:
    """Text at (x, y) in pixels, y downwards, its middle line on y; ``align`` is left or right of x."""

    text: str
    x: float
    y: float
    align: str


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def place(
    texts: Sequence[str],
    points: Sequence[Pixel],
    *,
    width: float,
    height: float,
    lines: Sequence[tuple[Pixel, Pixel]] = (),
) -> list[Label]:
    """A label for each of the first ``len(texts)`` of ``points``, in that order of importance.

    The points after those, such as dominated ones, and the ``lines`` are only kept clear. A label for which no side is
    free is left out: the table below the picture names every point.
    """
    taken = [_Box(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    taken += [box for start, end in lines for box in _along(start, end)]
    frame = _Box(0, 0, width, height)
    labels: list[Label] = []
    for text, (x, y) in zip(texts, points, strict=False):
        for dx, dy, align in _SIDES:
            label = Label(text, x + dx, y + dy, align)
            box = _box(label)
            if _inside(box, frame) and not any(box.meets(other) for other in taken):
                labels.append(label)
                taken.append(box)
                break
    return labels


_SIDES = (
    # The frontier rises to the right, so that below right and above left are free most often.
    (_GAP, _GAP + 3, "left"),
    (-_GAP, -_GAP - 3, "right"),
    (_GAP, -_GAP - 3, "left"),
    (-_GAP, _GAP + 3, "right"),
    (_GAP + 3, 0.0, "left"),
    (-_GAP - 3, 0.0, "right"),
    (_GAP, 2.8 * _GAP, "left"),
    (-_GAP, -2.8 * _GAP, "right"),
    (_GAP, -2.8 * _GAP, "left"),
    (-_GAP, 2.8 * _GAP, "right"),
    (3 * _GAP, 2.8 * _GAP, "left"),
    (-3 * _GAP, -2.8 * _GAP, "right"),
)


def _along(start: Pixel, end: Pixel) -> list[_Box]:
    """Small boxes that cover a line."""
    steps = 1 + int(max(abs(end[0] - start[0]), abs(end[1] - start[1])) / 4)
    boxes = []
    for i in range(steps + 1):
        x, y = (a + (b - a) * i / steps for a, b in zip(start, end, strict=True))
        boxes.append(_Box(x - 2, y - 2, x + 2, y + 2))
    return boxes


def _box(label: Label) -> _Box:
    length = _CHARACTER * len(label.text)
    left = label.x if label.align == "left" else label.x - length
    return _Box(left, label.y - _LINE / 2, left + length, label.y + _LINE / 2)


def _inside(box: _Box, frame: _Box) -> bool:
    return box.left >= frame.left and box.right <= frame.right and box.top >= frame.top and box.bottom <= frame.bottom
