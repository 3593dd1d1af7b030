"""Free photographs that come with scikit-image and scikit-learn, and haze rendered on them: what the demo works on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fpcore.builtin.rendered_haze import render_haze

AMOUNTS = (0.35, 0.5, 0.6)
"""Haze densities, taken in turn."""


def clear_photographs() -> Iterator[tuple[str, np.ndarray]]:
    """Real photographs that come with scikit-image and scikit-learn: (name, (H, W, 3) uint8)."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    yield "astronaut", data.astronaut()
    yield "chelsea", data.chelsea()
    yield "coffee", data.coffee()
    yield "rocket", data.rocket()
    yield "china", load_sample_image("china.jpg")
    yield "flower", load_sample_image("flower.jpg")


def write_hazy(folder: Path, reference: Path) -> None:
    """Write the clear photographs to ``reference`` and hazy renderings of them to ``folder``."""
    generator = torch.Generator().manual_seed(4)
    for i, (name, pixels) in enumerate(clear_photographs()):
        clear = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
        hazy = render_haze(clear, torch.tensor([AMOUNTS[i % len(AMOUNTS)]]), generator).image[0]
        for where, picture in ((folder, hazy), (reference, clear[0])):
            where.mkdir(parents=True, exist_ok=True)
            array = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(array).save(where / f"{name}.png")
