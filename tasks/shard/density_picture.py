"""The map of haze density as a picture that people can read: in colour, on a fixed scale, with a legend."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

LONGEST = 256
LEGEND = 24
"""Pixels of the strip under the map."""


def density_picture(density: Tensor) -> bytes:
    """PNG of a map (h, w) from 0, no haze, to 1, nothing but haze; the strip below says which colour is which."""
    height, width = density.shape
    scale = LONGEST / max(height, width)
    size = (max(96, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (size[0], size[1] + LEGEND), "white")
    canvas.paste(_coloured(density.clamp(0, 1).cpu().numpy()).resize(size, Image.Resampling.BICUBIC), (0, 0))
    canvas.paste(_coloured(np.linspace(0, 1, size[0] - 8)[None]).resize((size[0] - 8, 8)), (4, size[1] + 3))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    for text, x, anchor in (("0 clear", 4, "lt"), ("1 dense", size[0] - 4, "rt")):
        draw.text((x, size[1] + 13), text, fill="black", font=font, anchor=anchor)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _coloured(values: np.ndarray) -> Image.Image:
    return Image.fromarray(matplotlib.colormaps["viridis"](values, bytes=True)[..., :3])
