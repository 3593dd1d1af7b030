"""The photograph without its haze, at its own resolution:  J = (I − A) g + A,  g = min(1/t, what noise allows),  t = exp(−τ).

The map of optical depth is small and soft; the photograph's own edges say where depth changes. Within windows τ is an affine
function of the photograph's colour (colour-guided filter, He, Sun and Tang 2013), fitted where the network is sure of τ, and
its four coefficients are interpolated to full size (fast guided filter, He and Sun 2015) and applied to the photograph's own
pixels. Where t is small noise is amplified by 1/t: in flat parts (skies, fog) the gain is held to what a person accepts there.
Flat haze is close to A, so that holding it back changes hardly anything but the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.color_transfer import AffineMap
from fpcore.dehazing.haze_estimate import HazeEstimate, Samples

LEAST_TRANSMISSION = 0.1
RADIUS = 12
"""Of the windows, in pixels of the map."""
EPS = 1e-3
"""Variance of colour below which a window has no edge to follow."""
GRAIN = 0.012
"""Standard deviation of luma that a flat part may show after restoration."""
FLAT, TEXTURED = 0.006, 0.015
"""Local standard deviation of luma between which flat passes into textured, where the gain is not held back."""
BAND_PIXELS = 1 << 16
"""Pixels processed at a time."""


@dataclass(frozen=True)
class Restoration:
    """How the haze of one photograph is taken off.

    ``depth`` (4, h, w): optical depth as an affine function of colour, τ = d₀ R + d₁ G + d₂ B + d₃. ``most_gain`` (h, w) ≥ 1.
    ``airlight`` (3,). ``balance`` (3,): factors that take the airlight's cast from the result; 1 leaves it. ``tone`` (B = 1), or
    None: affine maps of colour that come after (``fpcore.dehazing.tone``).
    """

    depth: Tensor
    most_gain: Tensor
    airlight: Tensor
    balance: Tensor
    tone: AffineMap | None = None


def plan_restoration(e: HazeEstimate, texture: Tensor, *, white_balance: bool = False) -> Restoration:
    """From an estimate and the photograph's local standard deviation of luma ``texture`` (h, w), of the estimate's size."""
    certainty = e.evidence / e.spread.square().clamp_min(1e-4)
    depth = fit_along_edges(e.picture, e.tau * e.evidence, certainty / certainty.mean().clamp_min(1e-6))
    textured = ((texture - FLAT) / (TEXTURED - FLAT)).clamp(0, 1)
    most = 1 / LEAST_TRANSMISSION
    flat_gain = (GRAIN / texture.clamp_min(1e-4)).clamp(1, most)
    most_gain = _box((textured * most + (1 - textured) * flat_gain)[None], 3)[0]
    balance = e.airlight.mean() / e.airlight if white_balance else torch.ones(3)
    return Restoration(depth, most_gain, e.airlight, balance)


def even_restoration(e: HazeEstimate) -> Restoration:
    """The same optical depth everywhere, whatever the colours."""
    depth = torch.zeros(4, *e.tau.shape)
    depth[3] = e.tau
    return Restoration(depth, torch.full_like(e.tau, 1 / 0.05), e.airlight, torch.ones(3))


def fit_along_edges(guide: Tensor, x: Tensor, weight: Tensor, radius: int = RADIUS, eps: float = EPS) -> Tensor:
    """Coefficients (4, h, w) of x ≈ a · guide + b by weighted least squares in windows, smoothed.

    ``guide`` (3, h, w), ``x`` and ``weight`` (h, w).
    """
    w, g, target = weight[None].double() + 1e-6, guide.double(), x[None].double()
    total = _box(w, radius)

    def mean(y: Tensor) -> Tensor:
        return _box(w * y, radius) / total

    mean_g, mean_x = mean(g), mean(target)
    outer = (g[:, None] * g[None]).flatten(0, 1)
    covariance = mean(outer).unflatten(0, (3, 3)) - mean_g[:, None] * mean_g[None]
    cross = mean(g * target) - mean_g * mean_x
    ridge = eps * torch.eye(3, dtype=w.dtype)
    a = torch.linalg.solve(covariance.permute(2, 3, 0, 1) + ridge, cross.permute(1, 2, 0)).permute(2, 0, 1)
    b = mean_x - (a * mean_g).sum(0, keepdim=True)
    return mean(torch.cat([a, b])).float()


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean of (C, h, w) over (2 radius + 1)² windows, smaller at the border."""
    size = 2 * radius + 1
    x = F.avg_pool2d(x[None], (1, size), stride=1, padding=(0, radius), count_include_pad=False)
    return F.avg_pool2d(x, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)[0]


def restore_picture(r: Restoration, picture: Tensor) -> Tensor:
    """The small picture (3, h, w) in [0, 1] that was looked at, without haze and before any tone; not clamped."""
    tau = ((r.depth[:3] * picture).sum(0) + r.depth[3]).clamp_min(0)
    airlight, balance = (x.view(3, 1, 1) for x in (r.airlight, r.balance))
    return ((picture - airlight) * torch.minimum(tau.exp(), r.most_gain) + airlight) * balance


def restore(
    r: Restoration, pixels: Samples, strength: float = 1.0, mask: npt.NDArray[np.floating] | None = None
) -> Samples:
    """``pixels`` (H, W, 3) uint8 or uint16 without haze; the same type comes back.

    ``strength`` in [0, 1] interpolates between the photograph and the result, ``mask`` (H, W) in [0, 1] per pixel. Works in bands
    between two rows of the map: memory beyond the output is small.
    """
    height, width = pixels.shape[:2]
    grid = _grid(r)
    position = ((np.arange(height) + 0.5) * grid.shape[1] / height - 0.5).clip(0, grid.shape[1] - 1)
    output = np.empty_like(pixels)
    columns = _Columns(grid, width)
    airlight, balance = (x.numpy().astype(np.float32) for x in (r.airlight, r.balance))
    edges = np.searchsorted(position, np.arange(grid.shape[1] + 1))
    for cell, (start, stop) in enumerate(pairwise(edges)):
        top, step = columns.at(cell)
        rows = max(1, BAND_PIXELS // width)
        for first in range(start, stop, rows):
            band = slice(first, min(first + rows, stop))
            weight = (position[band] - cell).astype(np.float32)[:, None]
            share = strength if mask is None else strength * mask[band].astype(np.float32)
            coefficients = top[:, None] + weight * step[:, None]
            output[band] = _restore_band(pixels[band], coefficients, airlight, balance, share)
    return output


def _grid(r: Restoration) -> npt.NDArray[np.float32]:
    """All coefficients on the map's grid, (K, h, w): 4 of depth, the largest gain, and 12 of tone if there is one."""
    parts = [r.depth, r.most_gain[None]]
    if r.tone is not None:
        flat = torch.cat([r.tone.matrix[0].flatten(0, 1), r.tone.offset[0]])
        parts.append(F.interpolate(flat[None], r.depth.shape[1:], mode="bilinear", align_corners=False)[0])
    return torch.cat(parts).float().numpy()


class _Columns:
    """Coefficients (K, h, w) at ``width`` columns, a row of the grid at a time."""

    def __init__(self, grid: npt.NDArray[np.float32], width: int) -> None:
        x = ((np.arange(width) + 0.5) * grid.shape[2] / width - 0.5).clip(0, grid.shape[2] - 1)
        self.grid, self.left = grid, x.astype(np.int64)
        self.right = np.minimum(self.left + 1, grid.shape[2] - 1)
        self.weight = (x - self.left).astype(np.float32)

    def _row(self, row: int) -> npt.NDArray[np.float32]:
        left, right = self.grid[:, row, self.left], self.grid[:, row, self.right]
        left += self.weight * (right - left)
        return left

    def at(self, cell: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(K, W) at row ``cell``, and what is added on the way to the next row."""
        top = self._row(cell)
        return top, self._row(min(cell + 1, self.grid.shape[1] - 1)) - top


def _restore_band(
    pixels: Samples,
    coefficients: npt.NDArray[np.float32],
    airlight: npt.NDArray[np.float32],
    balance: npt.NDArray[np.float32],
    share: float | npt.NDArray[np.float32],
) -> Samples:
    """One band (rows, W, 3) under coefficients (K, rows, W). NumPy: the arrays stay in the processor's cache."""
    full = np.iinfo(pixels.dtype).max
    colours = [pixels[..., i].astype(np.float32) * np.float32(1 / full) for i in range(3)]
    tau = coefficients[3]
    for i in range(3):
        tau += coefficients[i] * colours[i]
    gain = np.exp(np.maximum(tau, 0, out=tau), out=tau)
    np.minimum(gain, coefficients[4], out=gain)
    clear = [((c - a) * gain + a) * b for c, a, b in zip(colours, airlight, balance, strict=True)]
    if len(coefficients) > 5:
        tone = coefficients[5:]
        clear = [tone[9 + i] + sum(tone[3 * i + j] * clear[j] for j in range(3)) for i in range(3)]
    output = np.empty_like(pixels)
    for i in range(3):
        edited = (colours[i] + share * (clear[i] - colours[i])) * full
        output[..., i] = np.clip(np.rint(edited, out=edited), 0, full, out=edited)
    return output
