"""What an image's header says: its format is one of a few and its pixels are within the cap. Nothing is decoded."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

from PIL import Image

from aslconvert.workers.intake.limits import Limits

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
# What Pillow's readers of headers raise.
_BROKEN = (
    OSError, ValueError, SyntaxError, MemoryError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    OverflowError, ZeroDivisionError, struct.error,
)  # fmt: skip


def broken(path: Path, *, limits: Limits) -> str:
    """Why the image at ``path`` cannot be taken, or nothing."""
    try:
        with warnings.catch_warnings():
            # Pillow warns from its own cap on, and raises from twice that on: 179 million pixels.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        return f"over {limits.pixels} pixels"
    except _BROKEN:
        return "it cannot be read"
    if not 0 < width * height <= limits.pixels:
        return f"{width}x{height} pixels, {limits.pixels} are the most"
    return ""
