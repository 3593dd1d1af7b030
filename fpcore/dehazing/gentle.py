"""A gentle restoration: what haze did to texture is undone first, and what it did to tone as far as a bound on the change allows.

Where a photograph may be clear as well as hazy it may change only a little. What a person sees as clearer is local contrast, and
that is cheap: with B the photograph smoothed along its own edges (guided filter, He, Sun and Tang 2013) and G the gain of the
whole restoration W = G (I − A) + A at each place,

    L = I + (G′ − 1)(I − B),    G′ = G Y(B) / Y(W(B))

has the local contrast of W, relative to its luma Y as eyes see it, and the tone of I in the large. The result is (1 − s) L + s W
with the largest s that keeps the bound. All of it is affine in colour, so that it is applied at any size.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fpcore.color_transfer import AffineMap
from fpcore.dehazing.haze_estimate import HazeView
from fpcore.dehazing.quality_gate import Verdict
from fpcore.dehazing.restore import LUMA, Restoration, fit_along_edges, gains
from fpcore.evaluation.clarity import local_statistics, luma

RADIUS = 6
"""Of the windows in which the photograph is smoothed, in pixels of the map: what is finer is texture."""
EDGE = 0.02
"""Variance of colour in a window above which it holds an edge rather than texture; B follows edges."""
FAINT = 0.05
"""Added to luma where contrast is taken relative to it, as in ``fpcore.evaluation.clarity``."""
MOST_BRIGHTER = 2.0
"""How many times brighter than W a place may count as."""
IDENTITY = torch.eye(3)[:, :, None, None]


def gentle_restoration(r: Restoration, picture: Tensor, texture: Tensor, least_psnr: float) -> Restoration:
    """``r`` held back so that the photograph keeps ``least_psnr`` (dB) to itself.

    ``picture`` (3, h, w) in [0, 1] that was looked at; ``texture`` (h, w), the photograph's local standard deviation of luma,
    stands for what is too fine to be seen in it.
    """
    whole = _whole(r, picture)
    local = _local_contrast(r, picture, whole)
    unseen = (texture.square() - local_statistics(luma(picture), 3)[0].square()).clamp_min(0).sqrt()
    small, large = _change(local, picture, unseen), _change(whole, picture, unseen)
    share, strength = _within(small, large, 10 ** (-least_psnr / 10))
    mixed = AffineMap(torch.lerp(local.matrix, whole.matrix, share), torch.lerp(local.offset, whole.offset, share))
    nothing, one = torch.zeros_like(r.depth), torch.ones_like(r.most_gain)
    return replace(
        r, depth=nothing, most_gain=one, most_tint=one, balance=torch.ones(3), tone=mixed.at_strength(strength)
    )


def _whole(r: Restoration, picture: Tensor) -> AffineMap:
    """W at the places of ``picture``."""
    airlight, balance = r.airlight.view(3, 1, 1), r.balance.view(3, 1, 1)
    matrix = _gain_matrix(*gains(r, picture))
    return _affine(balance[:, None] * matrix, balance * (airlight - _times(matrix, airlight.expand_as(picture))))


def _local_contrast(r: Restoration, picture: Tensor, whole: AffineMap) -> AffineMap:
    """L at the places of ``picture``."""
    slope, offset = smoothed_along_edges(picture)
    base = _times(slope, picture) + offset
    brighter = (luma(base) + FAINT) / (luma(_applied(whole, base)) + FAINT).clamp_min(FAINT)
    gain = torch.minimum(gains(r, picture)[0] * brighter.clamp(1, MOST_BRIGHTER).to(picture), r.most_gain)
    more = _gain_matrix(gain, torch.minimum(gain, r.most_tint)) - IDENTITY
    return _affine(IDENTITY + _product(more, IDENTITY - slope), -_times(more, offset))


def as_judged(r: Restoration, view: HazeView, verdict: Verdict) -> Restoration:
    """``r``, held back where the verdict on the photograph ``view`` is that it must not change much."""
    if verdict.least_psnr is None:
        return r
    return gentle_restoration(r, view.picture, view.texture, verdict.least_psnr)


def _change(affine: AffineMap, picture: Tensor, unseen: Tensor) -> Tensor:
    """(6, h, w): what ``affine`` changes in the three colours of ``picture``, and in grey texture of the standard deviation
    ``unseen`` (h, w), too fine to be seen in it."""
    return torch.cat([_applied(affine, picture) - picture, (affine.matrix[0].sum(1) - 1) * unseen])


def _within(small: Tensor, large: Tensor, bound: float) -> tuple[float, float]:
    """The largest s in [0, 1] at which the mean square of (1 − s) ``small`` + s ``large``, changes (6, h, w), is ``bound``; and
    what share of ``small`` alone, 1 unless that is too much already."""

    def mean(x: Tensor) -> float:
        return float(x.sum(0).mean()) / 3

    least, step = mean(small.square()), large - small
    if least >= bound:
        return 0.0, math.sqrt(bound / least)
    a, b = mean(step.square()), mean(step * small)
    return min((math.sqrt(b * b + a * (bound - least)) - b) / max(a, 1e-12), 1.0), 1.0


def smoothed_along_edges(picture: Tensor) -> tuple[Tensor, Tensor]:
    """``picture`` (3, h, w) guided by itself, as affine functions of colour: slopes (3, 3, h, w), offsets (3, h, w)."""
    fitted = fit_along_edges(picture, picture, torch.ones_like(picture[0]), RADIUS, EDGE)
    return fitted[:, :3], fitted[:, 3]


def _gain_matrix(gain: Tensor, tint: Tensor) -> Tensor:
    """(3, 3, h, w): luma times ``gain``, what is not luma times ``tint``."""
    return tint * IDENTITY + (gain - tint) * torch.from_numpy(LUMA).expand(3, 3)[:, :, None, None]


def _affine(matrix: Tensor, offset: Tensor) -> AffineMap:
    return AffineMap(matrix[None], offset[None])


def _applied(affine: AffineMap, picture: Tensor) -> Tensor:
    return _times(affine.matrix[0], picture) + affine.offset[0]


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ijhw,jhw->ihw", matrix, x)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("ijhw,jkhw->ikhw", a, b.expand_as(a))
