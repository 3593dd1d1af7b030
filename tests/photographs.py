"""Small real photographs that come with scikit-image and scikit-learn, with haze rendered on them, as files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.builtin.rendered_haze import render_haze


@cache
def hazy_photographs(side: int = 160) -> dict[str, np.ndarray]:
    """Six hazy photographs, the longest side ``side`` pixels, by name."""
    generator, photos = torch.Generator().manual_seed(0), {}
    for name, pixels in clear_photographs():
        image = Image.fromarray(pixels)
        image.thumbnail((side, side))
        clear = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        hazy = render_haze(clear, torch.tensor([0.5]), generator).image[0].clamp(0, 1)
        photos[name] = (hazy * 255).round().byte().permute(1, 2, 0).numpy()
    return photos


def write_photos(folder: Path, count: int) -> list[str]:
    """``count`` hazy photographs as PNG files, all different; their keys."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = list(hazy_photographs().items())
    keys = []
    for i in range(count):
        name, pixels = photos[i % len(photos)]
        key = f"{i:03d}-{name}.png"
        if not (folder / key).exists():
            Image.fromarray(np.roll(pixels, 7 * (i // len(photos)), axis=1)).save(folder / key)
        keys.append(key)
    return keys
