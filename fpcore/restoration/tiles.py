"""Pictures larger than the model's own: overlapping tiles whose outputs are blended into one.

The blend is an average with positive weights that sum to one, so the whole picture's map f contracts no slower than the
tiles' own, and all tiles have one fixed point together (Bar-Tal et al. 2023, MultiDiffusion, blends likewise).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fpcore.inversion.invert import Predict

OVERLAP = 0.25
"""Share of a tile's side that it has in common with each neighbour, at least."""
ROWS = 64
"""Tiles evaluated at once."""


def places(length: int, side: int) -> list[int]:
    """Where tiles of ``side`` start so that they cover ``length`` evenly, overlapping by ``OVERLAP`` or more."""
    if length <= side:
        return [0]
    stride = side - int(OVERLAP * side)
    count = -(-(length - side) // stride) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def in_tiles(predict: Predict, side: int) -> Predict:
    """``predict`` for latents (R, C, h, w) with h, w ≥ ``side``, asked about tiles of ``side`` × ``side`` alone."""
    ramp = torch.minimum(torch.arange(side) + 1.0, side - torch.arange(side, dtype=torch.float32))
    window = ramp[:, None] * ramp

    def tiled(z: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        corners = [(y, x) for y in places(z.shape[-2], side) for x in places(z.shape[-1], side)]
        total, weight, w = torch.zeros_like(z), z.new_zeros(z.shape[-2:]), window.to(z)
        for some in [corners[i : i + ROWS] for i in range(0, len(corners), ROWS)]:
            parts = torch.cat([z[..., y : y + side, x : x + side] for y, x in some])
            output = predict(parts, t.repeat(len(some)), rows.repeat(len(some))).to(z.dtype).chunk(len(some))
            for (y, x), part in zip(some, output, strict=True):
                total[..., y : y + side, x : x + side] += w * part
                weight[y : y + side, x : x + side] += w
        return total / weight

    return tiled
