"""How far to go with an edit that removes haze: half as the model says, half until the darkest thing in the photograph is black.

The model tells better in which direction a picture R without its haze lies from the photograph I than how far away. Over the
whole picture R ≈ g I + b, and removing haze is just that, J = (I − V) / t with g = 1 / t and a veil of brightness V = −b / g.
No light is negative, and in nearly every photograph something is almost black at full resolution: so the veil is as bright as
the photograph's darkest value f (the dark channel prior, He et al. 2009, for the photograph as a whole). Along
I + s (R − I) that is so where

    (1 − s) f + s (g f + b) = black,        s = (f − black) / (f − (g f + b)).

A black thing near the camera says nothing of the hills behind it, and the model (s = 1) errs in other photographs than the
darkest value does: the mean of both is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLACK = -0.01
"""Where the darkest value goes, a little below 0 as one pixel in a thousand may: on 145 held-out photographs .06 dB better
than 0 (``benchmarks.haze_amount``)."""
MOST = 1.5
"""Largest share: an edit is not to be exaggerated beyond recognition because a photograph has no dark thing."""


def share_to_black(pixels: Tensor, result: Tensor, darkest: Tensor, *, black: float = BLACK) -> Tensor:
    """Share s of the edit ``pixels`` → ``result`` (M, 3, H, W) in [0, 1] that brings ``darkest`` (M,) to ``black``: (M,) in
    [0, MOST].

    ``darkest``: of the photographs at full resolution (``fpcore.dehazing.haze_density.darkest_value``). g and b: least squares over
    all colours of a picture. An edit that darkens nothing gets the most or nothing: it is for ``fpcore.dehazing.quality_gate``.
    """
    x, y = pixels.flatten(1).double(), result.flatten(1).double()
    mean_x, mean_y = x.mean(1), y.mean(1)
    dx = x - mean_x[:, None]
    gain = (dx * (y - mean_y[:, None])).sum(1) / dx.square().sum(1).clamp_min(1e-9)
    after = mean_y + gain * (darkest.to(x) - mean_x)
    share = (darkest.to(x) - black) / (darkest.to(x) - after).clamp_min(1e-3)
    return torch.where(darkest.to(x) > 0, share, 0.0).clamp(0, MOST).to(pixels.dtype)


def share_of_edit(pixels: Tensor, result: Tensor, darkest: Tensor) -> Tensor:
    """Mean of ``share_to_black`` and of the whole edit, (M,) in [½, (1 + MOST) / 2]."""
    return (1 + share_to_black(pixels, result, darkest)) / 2
