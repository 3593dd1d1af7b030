"""The photograph without its haze, at its own resolution:  J = (I − A) g + A,  g = min(1/t, what noise allows),  t = exp(−τ).

The map of optical depth is small and soft; the photograph's own edges say where depth changes. Within windows τ is an affine
function of the photograph's colour (colour-guided filter, He, Sun and Tang 2013), fitted where the network is sure of τ, and
its four coefficients are interpolated to full size (fast guided filter, He and Sun 2015) and applied to the photograph's own
pixels. Where t is small noise is amplified by 1/t: in flat parts (skies, fog) the gain is held to the grain that a person accepts
there. Flat haze is close to A, so that holding it back changes hardly anything but the noise. Colour has a limit of its own
there: with D = I − A and its luma Y(D) the result is A + g Y(D) + min(g, g_c) (D − Y(D)).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.color_transfer import AffineMap
from fpcore.dehazing.haze_density import LEAST_TRANSMISSION
from fpcore.dehazing.haze_estimate import HazeEstimate, Samples
from fpcore.evaluation.clarity import luma

RADIUS = 12
"""Of the windows, in pixels of the map."""
EPS = 1e-3
"""Variance of colour below which a window has no edge to follow."""
GRAIN = 0.006
"""Standard deviation of luma that a flat part may show after restoration."""
TINT, TINT_RADIUS = 0.006, 4
"""What the colour differences R − Y and B − Y may vary by in a flat part after restoration, from their means in windows of so many
pixels of the map: what is more are the blocks of JPEG in a pale sky, and they turn pink and blue."""
FLAT, TEXTURED = 0.006, 0.015
"""Local standard deviation of luma between which flat passes into textured, where the gain is not held back."""
NEAR_AIRLIGHT = 0.15
"""Difference from the airlight up to which a flat part may be haze before nothing; further off it shows something."""
BRIGHTER = 0.05
"""How much brighter than the airlight a flat part that is brighter may become: a sky is airlight itself, brighter there."""
LEAST_SPREAD = 0.2
"""Added to the network's spread of τ (in squares): what is surest may not outweigh its whole surroundings."""
BAND_PIXELS = 1 << 15
"""Pixels processed at a time."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MOST_TAU = 80.0
"""Optical depth beyond which exp(τ) is no number any more in float32."""


@dataclass(frozen=True)
class Restoration:
    """How the haze of one photograph is taken off.

    ``depth`` (4, h, w): optical depth as an affine function of colour, τ = d₀ R + d₁ G + d₂ B + d₃. ``most_gain`` (h, w) ≥ 1,
    ``most_tint`` (h, w) ≥ 1: of colour.
    ``airlight`` (3,). ``balance`` (3,): factors that take the airlight's cast from the result; 1 leaves it. ``tone`` (B = 1), or
    None: affine maps of colour that come after (``fpcore.dehazing.tone``).
    """

    depth: Tensor
    most_gain: Tensor
    most_tint: Tensor
    airlight: Tensor
    balance: Tensor
    tone: AffineMap | None = None


def plan_restoration(e: HazeEstimate, texture: Tensor, *, white_balance: bool = False) -> Restoration:
    """From an estimate and the photograph's local standard deviation of luma ``texture`` (h, w), of the estimate's size."""
    certainty = e.evidence / (e.spread.square() + LEAST_SPREAD**2)
    tau = _without_glare(e, texture) * e.evidence
    (depth,) = fit_along_edges(e.picture, tau[None], certainty / certainty.mean().clamp_min(1e-6))
    most_gain, most_tint = box_mean(_limits(e, texture).double(), 3).float()
    balance = e.airlight.mean() / e.airlight if white_balance else torch.ones(3)
    return Restoration(depth, most_gain, most_tint, e.airlight, balance)


def _without_glare(e: HazeEstimate, texture: Tensor) -> Tensor:
    """τ (h, w), thinned in flat parts that are brighter than the airlight so that they become ``BRIGHTER`` than it at most:
    t ≥ (Y(I) − Y(A)) / ``BRIGHTER``. Beyond that they stay as they are."""
    brighter = (luma(e.picture) - luma(e.airlight.view(3, 1, 1))) / BRIGHTER
    most = torch.where(brighter > 0, -torch.log(brighter.clamp(1e-6, 1)), torch.inf)
    return torch.lerp(torch.minimum(e.tau, most.to(e.tau)), e.tau, _textured(texture))


def _textured(texture: Tensor) -> Tensor:
    """From 0 where flat to 1 where textured, of local standard deviations of luma."""
    return ((texture - FLAT) / (TEXTURED - FLAT)).clamp(0, 1)


def _limits(e: HazeEstimate, texture: Tensor) -> Tensor:
    """The largest gains of luma and of colour (2, h, w): held back in flat parts that are near the airlight."""
    most = 1 / LEAST_TRANSMISSION
    textured = _textured(texture)
    apart = (e.picture - e.airlight.view(3, 1, 1)).abs().amax(0) / NEAR_AIRLIGHT
    gain = (GRAIN / texture.clamp_min(1e-4)).clamp(1, most)
    tint = min(max(TINT / max(tint_of_flat_parts(e.picture, (textured < 0.5) & (e.evidence > 0)), 1e-4), 1), most)
    inside = -F.max_pool2d(-textured[None], 5, stride=1, padding=2)[0]  # lest a sky's rim keep its tints
    free = torch.stack([torch.maximum(textured, apart.clamp(0, 1)), torch.maximum(inside, (apart - 1).clamp(0, 1))])
    return free * most + (1 - free) * torch.stack([gain, torch.full_like(gain, tint)])


def tint_of_flat_parts(picture: Tensor, flat: Tensor) -> float:
    """How much the colour differences R − Y and B − Y, together, of a picture (3, h, w) vary from their means in windows, inside
    where it is ``flat`` (h, w) bool: what three quarters of these places stay below, so that one limit holds for a sky and leaves
    no patches in it. A sky that turns blue little by little does not vary: the means turn with it.
    """
    side = 2 * TINT_RADIUS + 1
    inside = F.max_pool2d((~flat)[None].float(), side, stride=1, padding=TINT_RADIUS)[0] == 0
    differences = (picture[[0, 2]] - luma(picture)).double()
    differences = differences - box_mean(differences, TINT_RADIUS)
    spread = box_mean(differences.square(), TINT_RADIUS).sum(0).sqrt()
    return float(spread[inside].quantile(0.75)) if bool(inside.any()) else 0.0


def even_restoration(e: HazeEstimate) -> Restoration:
    """The same optical depth everywhere, whatever the colours."""
    depth = torch.zeros(4, *e.tau.shape)
    depth[3] = e.tau
    most = torch.full_like(e.tau, 1 / 0.05)
    return Restoration(depth, most, most, e.airlight, torch.ones(3))


def fit_along_edges(guide: Tensor, x: Tensor, weight: Tensor, radius: int = RADIUS, eps: float = EPS) -> Tensor:
    """Coefficients (K, 4, h, w) of xₖ ≈ aₖ · guide + bₖ by weighted least squares in windows, smoothed.

    ``guide`` (3, h, w), ``x`` (K, h, w), ``weight`` (h, w).
    """
    w, g, target = weight[None].double() + 1e-6, guide.double(), x.double()
    total = box_mean(w, radius)

    def mean(y: Tensor) -> Tensor:
        return box_mean(w * y, radius) / total

    mean_g, mean_x = mean(g), mean(target)
    pairs = torch.triu_indices(3, 3)
    outer = mean(g[pairs[0]] * g[pairs[1]]) - mean_g[pairs[0]] * mean_g[pairs[1]]
    covariance = outer[torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]])]
    cross = torch.stack([mean(g * t) - mean_g * m for t, m in zip(target, mean_x, strict=True)], 1)
    ridge = eps * torch.eye(3, dtype=w.dtype)
    a = torch.linalg.solve(covariance.permute(2, 3, 0, 1) + ridge, cross.permute(2, 3, 0, 1)).permute(3, 2, 0, 1)
    b = mean_x - (a * mean_g).sum(1)
    smooth = mean(torch.cat([a, b[:, None]], 1).flatten(0, 1))
    return smooth.view(len(x), 4, *x.shape[1:]).float()


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean of (C, h, w) float64 over (2 radius + 1)² windows, smaller at the border: differences of running sums."""
    for dim in (1, 2):
        n = x.shape[dim]
        sums = x.cumsum(dim)
        before = torch.zeros_like(sums.narrow(dim, 0, 1)).expand(*_along(dim, radius + 1, sums))
        after = sums.narrow(dim, n - 1, 1).expand(*_along(dim, radius, sums))
        sums = torch.cat([before, sums, after], dim)
        at = torch.arange(n, dtype=x.dtype)
        count = (at + radius).clamp_max(n - 1) - (at - radius).clamp_min(0) + 1
        x = (sums.narrow(dim, 2 * radius + 1, n) - sums.narrow(dim, 0, n)) / (count[:, None] if dim == 1 else count)
    return x


def _along(dim: int, size: int, like: Tensor) -> list[int]:
    """The shape of ``like`` with another size along one axis."""
    return [size if i == dim else n for i, n in enumerate(like.shape)]


def gains(r: Restoration, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Of luma and of colour at each place of ``picture`` (3, h, w) in [0, 1]: (h, w) each."""
    tau = ((r.depth[:3] * picture).sum(0) + r.depth[3]).clamp_min(0)
    gain = torch.minimum(tau.exp(), r.most_gain)
    return gain, torch.minimum(gain, r.most_tint)


def restore_picture(r: Restoration, picture: Tensor) -> Tensor:
    """The small picture (3, h, w) in [0, 1] that was looked at, without haze and before any tone; not clamped."""
    gain, tint = gains(r, picture)
    airlight, balance = (x.view(3, 1, 1) for x in (r.airlight, r.balance))
    beyond = picture - airlight
    return (beyond * tint + luma(beyond).to(gain) * (gain - tint) + airlight) * balance


def restore(
    r: Restoration, pixels: Samples, strength: float = 1.0, mask: npt.NDArray[np.floating] | None = None
) -> Samples:
    """``pixels`` (H, W, 3) uint8 or uint16 without haze; the same type comes back.

    ``strength`` in [0, 1] interpolates between the photograph and the result, ``mask`` (H, W) in [0, 1] per pixel. Works in
    bands of rows: memory beyond the output is small.
    """
    height, width = pixels.shape[:2]
    full = np.iinfo(pixels.dtype).max
    airlight, balance = (r.airlight * full).numpy().astype(np.float32), r.balance.numpy().astype(np.float32)
    coefficients = _Coefficients(_grid(r, full), height, width)
    output = np.empty_like(pixels)
    rows = max(1, BAND_PIXELS // width)
    beyond = np.empty((3, rows, width), np.float32)  # used again: fresh memory in each band costs a fifth more
    for first in range(0, height, rows):
        band = slice(first, min(first + rows, height))
        share = np.asarray(strength if mask is None else strength * mask[band], np.float32)
        if beyond.shape[1] > band.stop - first:
            beyond = np.empty((3, band.stop - first, width), np.float32)
        _restore_band(pixels[band], coefficients.of(band), airlight, balance, share, beyond, output[band])
    return output


def _grid(r: Restoration, full: int) -> npt.NDArray[np.float32]:
    """All coefficients on the map's grid, (K, h, w): 4 of depth, the largest gains, and 12 of tone if there is one.

    For samples in [0, ``full``]; depth is a function of how far a colour is from the airlight.
    """
    slope = r.depth[:3]
    parts = [slope / full, (r.depth[3] + torch.einsum("chw,c->hw", slope, r.airlight))[None]]
    parts += [r.most_gain[None], r.most_tint[None]]
    if r.tone is not None:
        flat = torch.cat([r.tone.matrix[0].flatten(0, 1), r.tone.offset[0] * full])
        parts.append(F.interpolate(flat[None], r.depth.shape[1:], mode="bilinear", align_corners=False)[0])
    return torch.cat(parts).float().numpy()


class _Coefficients:
    """Coefficients on a grid (K, h, w) at the pixels of a photograph, bilinear, a band of rows at a time from the top."""

    def __init__(self, grid: npt.NDArray[np.float32], height: int, width: int) -> None:
        x, left = _positions(width, grid.shape[2])
        self.weight, self.pixels = (x - left).astype(np.float32), np.bincount(left, minlength=grid.shape[2])
        self.y, self.above = _positions(height, grid.shape[1])
        self.grid = grid
        self.row = lru_cache(maxsize=4)(self._row)  # neighbouring bands share some
        self.band = np.empty((0, 0), np.float32)

    def _row(self, row: int) -> npt.NDArray[np.float32]:
        """(K · W) of a row of the grid."""
        points = self.grid[:, row]
        slopes = np.diff(points, axis=1, append=points[:, -1:])
        found, slope = (np.repeat(x, self.pixels, axis=1) for x in (points, slopes))
        slope *= self.weight
        found += slope
        return found.ravel()

    def of(self, band: slice) -> npt.NDArray[np.float32]:
        """(rows, K, W), until the next band."""
        first, last = int(self.above[band.start]), min(int(self.above[band.stop - 1]) + 1, self.grid.shape[1] - 1)
        weight = (1 - np.abs(self.y[band, None] - np.arange(first, last + 1))).clip(0).astype(np.float32)
        near = np.stack([self.row(row) for row in range(first, last + 1)])
        if self.band.shape != (len(weight), near.shape[1]):
            self.band = np.empty((len(weight), near.shape[1]), np.float32)
        return np.matmul(weight, near, out=self.band).reshape(len(weight), len(self.grid), -1)


def _positions(full: int, grid: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Where the centres of ``full`` pixels lie on a grid, and the points of the grid before them."""
    at = ((np.arange(full) + 0.5) * grid / full - 0.5).clip(0, grid - 1)
    return at, at.astype(np.int64)


def _restore_band(
    pixels: Samples,
    coefficients: npt.NDArray[np.float32],
    airlight: npt.NDArray[np.float32],
    balance: npt.NDArray[np.float32],
    share: npt.NDArray[np.float32],
    beyond: npt.NDArray[np.float32],
    output: Samples,
) -> None:
    """One band (rows, W, 3) under ``coefficients`` (rows, K, W), which are used up, into ``output``.

    Few passes, each over arrays that stay in the processor's cache; ``beyond`` (3, rows, W) is room to work in.
    """
    full = np.iinfo(pixels.dtype).max
    gain, tint = coefficients[:, 3], coefficients[:, 5]
    planes = np.empty((3, *pixels.shape[:2]), pixels.dtype)
    for i in range(3):
        planes[i] = pixels[..., i]
    np.copyto(beyond, planes)
    beyond -= airlight[:, None, None]  # D
    for i in range(3):
        coefficients[:, i] *= beyond[i]
        gain += coefficients[:, i]
    np.clip(gain, 0, MOST_TAU, out=gain)
    np.minimum(np.exp(gain, out=gain), coefficients[:, 4], out=gain)
    if coefficients.shape[1] == 6 and (balance == 1).all():
        _gain_in_part(gain, tint, share)
        _apply(beyond, gain, tint)
    else:
        cleared = beyond.copy()
        _apply(cleared, gain, tint)
        beyond += share * (_toned(cleared, coefficients[:, 6:], airlight, balance) - beyond)
    beyond += (airlight + np.float32(0.5))[:, None, None]
    np.copyto(planes, np.clip(beyond, 0, full, out=beyond), casting="unsafe")  # cut off to whole numbers
    for i in range(3):
        output[..., i] = planes[i]


def _gain_in_part(gain: npt.NDArray[np.float32], tint: npt.NDArray[np.float32], share: npt.NDArray[np.float32]) -> None:
    """Gain and limit of colour (rows, W) of which ``share`` is wanted: 1 + s (g − 1), in place."""
    if (share == 1).all():
        return
    for x in (gain, tint):
        x *= share
        x += 1 - share


def _apply(beyond: npt.NDArray[np.float32], gain: npt.NDArray[np.float32], tint: npt.NDArray[np.float32]) -> None:
    """``beyond`` (3, rows, W) with its luma times ``gain`` and its colour times no more than ``tint``, in place; both,
    (rows, W), are used up."""
    np.minimum(gain, tint, out=tint)
    gain -= tint
    if not gain.any():
        beyond *= tint
        return
    gain *= (LUMA @ beyond.reshape(3, -1)).reshape(gain.shape)
    beyond *= tint
    beyond += gain


def _toned(
    cleared: npt.NDArray[np.float32],
    tone: npt.NDArray[np.float32],
    airlight: npt.NDArray[np.float32],
    balance: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """``cleared`` (3, rows, W) = J − A under the balance and ``tone`` (rows, 12 or 0, W); still relative to A."""
    clear = [(cleared[i] + airlight[i]) * balance[i] for i in range(3)]
    if tone.shape[1]:
        clear = [tone[:, 9 + i] + sum(tone[:, 3 * i + j] * clear[j] for j in range(3)) for i in range(3)]
    return np.stack([clear[i] - airlight[i] for i in range(3)])
