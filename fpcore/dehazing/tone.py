"""Tone and colour of the diffusion result, brought into the restoration by physics in proportion to how sure each is.

Physics errs where optical depth is uncertain: J − A = (I − A) / t, so an error s in τ moves J by |J − A| s. The diffusion result is
about equally sure everywhere. Both are estimates of one picture: they are averaged by precision at the model's size, and what
that changes is transferred as local affine maps of colour (``fpcore.color_transfer``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.color_transfer import AffineMap, fit_affine
from fpcore.dehazing.haze_estimate import HazeEstimate

DIFFUSION_ERROR = 0.3
"""Error of the diffusion result in colours from 0 to 1 that does best (docs/studies/dehazing.md)."""


def tone_of(e: HazeEstimate, restored: Tensor, diffusion: Tensor) -> AffineMap:
    """The map from ``restored`` (3, h, w) in [0, 1], of the estimate's size, to its average with ``diffusion`` (3, m, n)."""
    size = (diffusion.shape[1], diffusion.shape[2])
    error = (restored - e.airlight.view(3, 1, 1)).abs().mean(0) * e.spread
    small, error = (F.adaptive_avg_pool2d(x[None], size)[0] for x in (restored.clamp(0, 1), error[None]))
    weight = error.square() / (error.square() + DIFFUSION_ERROR**2)
    return fit_affine(small[None], torch.lerp(small, diffusion.clamp(0, 1), weight)[None])
