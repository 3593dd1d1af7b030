"""Photographs for the tests of pictures: free ones that ship with scikit-image and scikit-learn, and SOTS pairs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from torch import Tensor

from fpcore.builtin.rendered_haze import render_haze

SOTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "haze_pairs" / "sots_outdoor"


@cache
def free_photographs(height: int = 240, width: int = 320) -> Tensor:
    """Four outdoor-like photographs (4, 3, height, width) in [0, 1]."""
    pictures = [data.rocket(), data.coffee(), load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    resized = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BOX)) for p in pictures]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255


@cache
def free_hazy(amount: float = 0.6) -> Tensor:
    """The same, with haze rendered on them."""
    clear = free_photographs()
    return render_haze(clear, torch.full((len(clear),), amount), torch.Generator().manual_seed(5)).image.clamp(0, 1)


def sots_pairs(count: int) -> list[tuple[Tensor, Tensor]]:
    """The first ``count`` pairs, hazy and clear, each (3, 480, 640) in [0, 1]."""
    names = sorted(path.name for path in (SOTS / "hazy").iterdir())[:count]
    return [(read(SOTS / "hazy" / name), read(SOTS / "gt" / name)) for name in names]


def read(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255


def to_pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] to (H, W, 3) uint8."""
    return (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def squeeze(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Area averaging of (3, H, W) to ``size`` (h, w), as the models see photographs."""
    channels = [Image.fromarray(c.numpy()).resize(size[::-1], Image.Resampling.BOX) for c in image]
    return torch.from_numpy(np.stack([np.asarray(c) for c in channels]))
