"""The dark channel prior (He, Sun and Tang 2009): the classic single-image dehazing, as a baseline and a measure.

In clear outdoor pictures most small patches contain something dark in some colour, so where even the darkest pixel of
a patch is bright, that brightness is haze:  I = J t + A (1 − t)  gives  t = 1 − ω · min over patch and colours of I/A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.evaluation.windows import sliding

PATCH = 15


@dataclass(frozen=True)
class DarkChannelResult:
    """``image`` (B, 3, H, W) in [0, 1], ``transmission`` (B, 1, H, W) in [0, 1], ``airlight`` (B, 3)."""

    image: Tensor
    transmission: Tensor
    airlight: Tensor


def dark_channel(image: Tensor, patch: int = PATCH) -> Tensor:
    """Minimum over the colours and over ``patch`` × ``patch`` windows: (B, 3, H, W) to (B, 1, H, W)."""
    half = patch // 2
    darkest = F.pad(image.amin(1, keepdim=True), (half, half, half, half), value=math.inf)
    return sliding(sliding(darkest, patch, -1, torch.minimum), patch, -2, torch.minimum)


def dehaze(
    image: Tensor,
    patch: int = PATCH,
    omega: float = 0.95,
    t0: float = 0.1,
    radius: int = 60,
    eps: float = 1e-3,
) -> DarkChannelResult:
    """Dehaze ``image`` (B, 3, H, W) or (3, H, W) in [0, 1] by the dark channel prior with a guided filter.

    ``patch`` (odd) is the window of the dark channel in pixels, ``omega`` the share of haze removed, ``t0`` the least
    transmission, ``radius`` and ``eps`` those of the guided filter that fits the transmission to the picture's edges.
    The airlight is the mean colour of the 0.1 % of pixels with the brightest dark channel.
    """
    image = image[None] if image.ndim == 3 else image
    airlight = _airlight(image, dark_channel(image, patch))
    a = airlight[:, :, None, None]
    transmission = 1 - omega * dark_channel(image / a, patch)
    transmission = _guided(image.mean(1, keepdim=True), transmission, radius, eps).clamp(0, 1)
    clear = (image - a) / transmission.clamp_min(t0) + a
    return DarkChannelResult(clear.clamp(0, 1), transmission, airlight)


def _airlight(image: Tensor, dark: Tensor) -> Tensor:
    """(B, 3): mean colour of the pixels whose dark channel is in the top 0.1 %."""
    pixels = image.flatten(2)  # (B, 3, N)
    haziest = dark.flatten(1).topk(max(1, pixels.shape[2] // 1000), dim=1).indices
    return pixels.gather(2, haziest[:, None].expand(-1, 3, -1)).mean(2).clamp_min(1e-3)


def _guided(guide: Tensor, x: Tensor, radius: int, eps: float) -> Tensor:
    """Guided filter (He et al. 2013) of ``x`` (B, 1, H, W) by a one-channel ``guide``."""
    mean_g, mean_x = _box(guide, radius), _box(x, radius)
    a = (_box(guide * x, radius) - mean_g * mean_x) / (_box(guide * guide, radius) - mean_g**2 + eps)
    return _box(a, radius) * guide + _box(mean_x - a * mean_g, radius)


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over windows of side 2 radius + 1, smaller at the border, by running sums: the radius costs nothing."""
    for dim in (2, 3):
        n = x.shape[dim]
        zero = torch.zeros_like(x.narrow(dim, 0, 1))
        sums = torch.cat([zero, x], dim).cumsum(dim, dtype=torch.float64)
        middle = torch.arange(n, device=x.device)
        low, high = (middle - radius).clamp_min(0), (middle + radius + 1).clamp_max(n)
        count = (high - low).view([-1 if d == dim else 1 for d in range(4)])
        x = ((sums.index_select(dim, high) - sums.index_select(dim, low)) / count).to(x.dtype)
    return x
