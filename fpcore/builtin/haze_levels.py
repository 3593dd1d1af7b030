"""The words that ``builtin:haze`` knows for the density of haze."""

from __future__ import annotations

import torch
from torch import Tensor

HAZE_LEVELS = ("clear", "faint haze", "light haze", "moderate haze", "thick haze", "dense haze")
"""Prompts for a growing haze density (1 − mean transmission), evenly spaced from 0 to ``DENSEST``."""
DENSEST = 0.8


def level_weights(density: Tensor) -> Tensor:
    """How much each of ``HAZE_LEVELS`` is meant at each place: density (B, 1, h, w) in [0, 1] → (B, K, h, w), sum 1.

    Linear between the two nearest levels.
    """
    position = density.clamp(0, DENSEST) / DENSEST * (len(HAZE_LEVELS) - 1)
    levels = torch.arange(len(HAZE_LEVELS), device=density.device).view(1, -1, 1, 1)
    return (1 - (position - levels).abs()).clamp_min(0)
