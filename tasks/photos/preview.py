"""Photographs small enough to look at: read by the same decoder, within the same limits, as photos to work on."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tasks.photos.decode import decode_photo


def preview(data: bytes, side: int) -> Image.Image:
    """A photo of any kind upright in RGB at 8 bits, its longest side at most ``side`` pixels. Raises PhotoError."""
    pixels = decode_photo(data).pixels
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image
