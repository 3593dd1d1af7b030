"""From a small edit to the full-resolution photograph by local affine colour transfer.

Around each pixel of the model's size the edit is modelled as  result ≈ A · source + b,  A (3 × 3) and b (3):

    A = (Cov(result, source) + ε g I) (Cov(source) + ε I)⁻¹,    b = mean(result) − A mean(source),    both smoothed,

the colour-guided filter of He, Sun and Tang (2013) with the edit as its target, but drawn towards the picture's mean
gain g instead of 0, so that flat regions keep their grain and the identity is reproduced exactly. (Haze removal is such
a gain, 1/t.) The coefficients are interpolated bilinearly to the photograph's size (Chen et al. 2016, bilateral guided
upsampling without the range axis) and applied to its own pixels: its detail survives and no new detail is invented.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

RADIUS = 1
EPS = 1e-3
BAND_PIXELS = 1 << 17
"""Pixels processed at a time."""


@dataclass(frozen=True)
class AffineMap:
    """Local affine colour maps on a grid over the picture: ``matrix`` (B, 3, 3, h, w), ``offset`` (B, 3, h, w),
    indices (batch, result colour, source colour, y, x), for colours in [0, 1]."""

    matrix: Tensor
    offset: Tensor

    def __getitem__(self, row: int) -> AffineMap:
        """The map of one photograph, as a batch of one."""
        return AffineMap(self.matrix[row : row + 1], self.offset[row : row + 1])

    def at_strength(self, strength: float) -> AffineMap:
        """Interpolate between the identity (0) and this map (1)."""
        identity = torch.eye(3, dtype=self.matrix.dtype, device=self.matrix.device)[:, :, None, None]
        return AffineMap(identity + strength * (self.matrix - identity), strength * self.offset)


def fit_affine(source: Tensor, result: Tensor, radius: int = RADIUS, eps: float = EPS) -> AffineMap:
    """Fit the local affine map that turns ``source`` into ``result``, both (B, 3, h, w) in [0, 1].

    ``radius`` is that of the square window in pixels of this size; ``eps``, in squared colour units, is the variance
    below which a window is too flat to tell its own A and takes the picture's mean gain instead.
    """
    if source.shape != result.shape or source.ndim != 4 or source.shape[1] != 3:
        raise ValueError(f"source and result must both be (B, 3, h, w), not {source.shape} and {result.shape}")
    source, result = source.double(), result.double()  # variances are differences of nearly equal numbers
    mean_s, mean_r = _box(source, radius), _box(result, radius)
    covariance = _box(_outer(source, source), radius) - _outer(mean_s, mean_s)
    cross = _box(_outer(result, source), radius) - _outer(mean_r, mean_s)
    ridge = eps * torch.eye(3, dtype=source.dtype, device=source.device)[None, :, :, None, None]
    gain = (_mean_trace(cross) + eps) / (_mean_trace(covariance) + eps)
    matrix = _right_divide(cross + gain * ridge, covariance + ridge)
    offset = mean_r - torch.einsum("bijhw,bjhw->bihw", matrix, mean_s)
    return AffineMap(_box(matrix, radius).float(), _box(offset, radius).float())


def apply_affine(
    affine: AffineMap, pixels: Pixels, strength: float = 1.0, mask: npt.NDArray[np.floating] | None = None
) -> Pixels:
    """Apply the map of one photograph to its ``pixels`` (H, W, 3) uint8 or uint16; the same type comes back.

    ``strength`` in [0, 1] interpolates between the photograph and the edit, ``mask`` (H, W) in [0, 1] per pixel.
    Works in bands of rows: memory beyond the output is small and the result does not depend on the bands' height.
    """
    if len(affine.matrix) != 1:
        raise ValueError(f"apply_affine takes the map of one photograph, not of {len(affine.matrix)}: use map[row]")
    height, width = pixels.shape[:2]
    columns = _columns(affine.at_strength(strength), width)
    top, weight = _rows(height, len(columns))
    output = np.empty_like(pixels)
    rows = max(1, BAND_PIXELS // width)
    for cell in range(len(columns)):  # all image rows between the same two rows of the grid
        below = min(cell + 1, len(columns) - 1)
        first, last = np.searchsorted(top, [cell, cell + 1])
        for y in range(first, last, rows):
            band = slice(y, min(y + rows, last))
            region = None if mask is None else mask[band]
            output[band] = _apply_band(columns[cell], columns[below], weight[band], pixels[band], region)
    return output


def render(
    pixels: Pixels,
    source: Tensor,
    result: Tensor,
    strength: float = 1.0,
    mask: npt.NDArray[np.floating] | None = None,
    radius: int = RADIUS,
    eps: float = EPS,
) -> Pixels:
    """Transfer the edit ``source`` → ``result`` (3, h, w) in [0, 1] to a photograph (H, W, 3) uint8 or uint16."""
    return apply_affine(fit_affine(source[None], result[None], radius, eps), pixels, strength, mask)


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)² windows, smaller at the border; leading axes are all batch."""
    flat = x.flatten(0, -4) if x.ndim > 4 else x
    return F.avg_pool2d(flat, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False).view_as(x)


def _mean_trace(m: Tensor) -> Tensor:
    """Trace of (B, 3, 3, h, w), mean over the picture: (B, 1, 1, 1, 1)."""
    return m.diagonal(dim1=1, dim2=2).sum(-1).mean((1, 2)).view(-1, 1, 1, 1, 1)


def _right_divide(a: Tensor, b: Tensor) -> Tensor:
    """a b⁻¹ of (B, 3, 3, h, w) matrices."""
    quotient: Tensor = torch.linalg.solve(b.permute(0, 3, 4, 1, 2), a.permute(0, 3, 4, 1, 2), left=False)
    return quotient.permute(0, 3, 4, 1, 2)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Outer product over the colour axis: (B, 3, h, w) twice to (B, 3, 3, h, w)."""
    return a[:, :, None] * b[:, None]


def _columns(affine: AffineMap, width: int) -> npt.NDArray[np.float32]:
    """Coefficients (h, 3, 4, width) interpolated along x; the last column of each 3 × 4 is the offset."""
    coefficients = torch.cat([affine.matrix[0], affine.offset[0][:, None]], dim=1)
    wide = F.interpolate(coefficients, (coefficients.shape[2], width), mode="bilinear", align_corners=False)
    return np.ascontiguousarray(wide.permute(2, 0, 1, 3).cpu().numpy())


def _rows(height: int, grid: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each image row the grid row above it and the weight (height, 1) of the one below."""
    y = np.clip((np.arange(height) + 0.5) * grid / height - 0.5, 0, grid - 1)
    top = np.floor(y).astype(np.int64)
    return top, (y - top).astype(np.float32)[:, None]


def _apply_band(
    top: npt.NDArray[np.float32],
    bottom: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    pixels: Pixels,
    mask: npt.NDArray[np.floating] | None,
) -> Pixels:
    """Rows between two grid rows: (1 − weight) · (A p + b at the top) + weight · (A p + b at the bottom).

    NumPy, one thread: the arrays stay in the processor's cache, and torch's threads would cost more than they save.
    """
    full = np.iinfo(pixels.dtype).max
    colours = np.moveaxis(pixels, 2, 0).astype(np.float32, order="C")  # (3, rows, W)
    output = np.empty_like(pixels)
    product = np.empty_like(colours[0])
    for i in range(3):
        edited, change = (np.empty_like(product) for _ in range(2))
        edited[:] = top[i, 3] * full
        change[:] = (bottom[i, 3] - top[i, 3]) * full
        for j in range(3):
            edited += np.multiply(colours[j], top[i, j], out=product)
            change += np.multiply(colours[j], bottom[i, j] - top[i, j], out=product)
        edited += np.multiply(change, weight, out=product)
        if mask is not None:
            edited = colours[i] + mask.astype(np.float32) * (edited - colours[i])
        output[..., i] = np.clip(np.rint(edited, out=edited), 0, full, out=edited)
    return output
